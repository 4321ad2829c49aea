"""The DICOM edge: read, check, pair and write radiographs, and make the network's image of them."""
