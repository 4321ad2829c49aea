"""Writing one study: NIfTI volumes, preview, report, and the folder that holds them."""
