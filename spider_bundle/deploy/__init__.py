"""MONAI Deploy application: a folder with radiographs to a DICOM CT series and a segmentation.

Nothing else in the package imports this room: it needs the MONAI Deploy App SDK, whose versions are
in ``requirements.txt`` beside this file.
"""
