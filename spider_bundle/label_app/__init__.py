"""A MONAI Label app for radiograph pairs; its environment is requirements.txt."""
