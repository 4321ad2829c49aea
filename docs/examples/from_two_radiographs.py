# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # From two radiographs to a head CT in NumPy
#
# Research use only, never for diagnosis. The radiographs of this example are simulated from a
# head phantom, so no patient is in it. Open this file as a notebook with jupytext, or run it:
# `python docs/examples/from_two_radiographs.py`.

# %%
"""From two radiographs to a head CT in NumPy."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np

from spider_bundle.api import reconstruct
from spider_bundle.demo import write_demo_pair
from spider_bundle.labels import LABEL_NAMES

# %% [markdown]
# Your own radiographs go here instead: the paths of the frontal and of the lateral DICOM file.

# %%
frontal, lateral = write_demo_pair(Path(tempfile.mkdtemp()), shape=(240, 240), pitch=1.2)

# %% [markdown]
# ## Reconstruct
#
# `spacing` and `shape` choose the grid; the default is 128 voxels of 2 mm along each axis.

# %%
head = reconstruct([frontal, lateral], spacing=4.0, shape=64)

# %% [markdown]
# `head.ct` holds HU (int16) and `head.labels` the tissues (uint8), both indexed (x, y, z).
# `head.affine` maps indices to RAS millimetres, and `head.report` says where every geometric value
# came from and what was noticed.
#
# ## Measure

# %%
voxel_ml = np.prod(head.grid.spacing) / 1000
millilitres = {
    name: float(voxel_ml * (head.labels == value).sum()) for value, name in LABEL_NAMES.items()
}

# %% [markdown]
# ## Look
#
# The middle planes, seen as on a radiological screen: the patient's left is on the right side.

# %%
x, y, z = (n // 2 for n in head.ct.shape)
planes = {
    "sagittal": head.ct[x].T,
    "coronal": head.ct[::-1, y].T,
    "axial": head.ct[::-1, :, z].T,
}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4))
for axis, (name, plane) in zip(axes, planes.items(), strict=True):
    axis.imshow(plane, cmap="gray", vmin=-200, vmax=1000, origin="lower")
    axis.set_title(name)
    axis.axis("off")
figure.suptitle(f"intracranial {millilitres['intracranial']:.0f} ml; research use only")
figure.savefig("head.png")

# %% [markdown]
# ## Keep

# %%
nibabel.save(nibabel.Nifti1Image(head.ct, head.affine), "ct.nii.gz")
nibabel.save(nibabel.Nifti1Image(head.labels, head.affine), "label.nii.gz")
