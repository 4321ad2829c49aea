"""What a training needs beside MONAI: losses, schedules, checkpoints, monitoring, sampling."""
