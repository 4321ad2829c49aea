"""The stable codes of everything that can go wrong, and what each means.

Conditions and actions are shown to operators and written to reports. They never hold a name, an
identifier, a date, a path or a UID.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Severity(StrEnum):
    """Severity of a finding: an error stops the study, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


class Code(StrEnum):
    """All codes; see :data:`CODES` for what each means."""

    # radiographs
    NOT_A_RADIOGRAPH = "E01"
    UNDECODABLE_PIXEL_DATA = "E02"
    NOT_MONOCHROME = "E03"
    MULTIFRAME_OR_SUBTRACTED = "E04"
    DIFFERENT_STUDIES = "E05"
    NOT_A_PAIR = "E06"
    TIME_GAP = "E07"
    UNKNOWN_OR_OBLIQUE_VIEW = "E08"
    CONTRADICTORY_ORIENTATION = "E09"
    MISSING_ORIENTATION = "E10"
    INVALID_SDD = "E11"
    INVALID_PIXEL_PITCH = "E12"
    PIXEL_SPACING_MISMATCH = "E13"
    MISSING_SOD = "E14"
    UNKNOWN_INTENSITY_RELATIONSHIP = "E15"
    INVALID_PIXEL_VALUES = "E16"
    BURNED_IN_TEXT = "E17"
    FIELD_CUTS_HEAD = "E18"
    VIEWS_NOT_ORTHOGONAL = "E19"
    FIELD_OF_VIEW_TRANSFORMED = "E20"
    BODY_PART_NOT_HEAD = "E21"
    LOSSY_COMPRESSION = "E22"
    CONTRADICTORY_LATERALITY = "E23"
    WRONG_POLARITY = "E24"
    UNKNOWN_TUBE_SIDE = "E25"
    LOCALISER_GEOMETRY = "E26"
    NO_HEAD_LOCALISERS = "E27"
    SEVERAL_LOCALISERS = "E28"
    MIXED_KINDS = "E29"
    HEAD_NOT_FOUND = "E30"
    HEADER_CONTRADICTS_PIXELS = "E31"
    REPROJECTION_DISAGREES = "E32"
    NOT_A_SKULL_VIEW = "E33"
    SLOT_SCAN = "E34"
    # input files and archives
    ARCHIVE_UNREADABLE = "A01"
    ARCHIVE_EXCEEDS_LIMITS = "A02"
    FILE_NOT_EXAMINED = "A04"
    INPUT_UNREADABLE = "A05"
    NO_SPACE_TO_UNPACK = "A06"
    # the site's key
    INVALID_KEY_FILE = "K01"
    # runs
    WRITE_FAILED = "R01"
    RUN_FAILED = "R02"
    MISSING_PACKAGE = "R03"
    WORKER_DIED = "R04"
    TIME_LIMIT_EXCEEDED = "R05"
    NO_DISK_SPACE = "R06"
    STUDY_FAILED = "R07"
    OUTPUT_IN_USE = "R08"
    NODE_LACKS_FOLDERS = "R09"
    CLUSTER_UNAVAILABLE = "R10"
    NODE_DIFFERS = "R11"
    GRID_CUTS_HEAD = "R12"
    INVALID_OPTION = "R13"
    # site profiles
    INVALID_PROFILE = "S01"
    CONFIG_WRITABLE_BY_OTHERS = "S02"
    # the model
    INVALID_WEIGHTS = "M01"
    OTHER_NETWORK = "M02"
    INVALID_DESCRIPTION = "M03"
    NO_HEADS = "M04"
    # the network between this program and a PACS
    INVALID_ADDRESS = "N01"
    PEER_UNREACHABLE = "N02"
    ASSOCIATION_REJECTED = "N03"
    SOP_CLASS_REJECTED = "N04"
    OBJECT_REFUSED = "N05"
    ASSOCIATION_LOST = "N06"
    INVALID_RESULT = "N07"
    CANNOT_LISTEN = "N08"
    FOLDER_IN_USE = "N09"
    SPOOL_FULL = "N10"
    MESSAGE_TOO_LARGE = "N11"
    INVALID_OBJECT = "N12"
    SPOOL_WRITE_FAILED = "N13"
    CALLER_REJECTED = "N14"
    # CT scans that cannot become head cases
    NOT_CT = "P01"
    LOCALISER = "P02"
    SCAN_UNREADABLE = "P03"
    INCONSISTENT_SLICES = "P04"
    GANTRY_TILT = "P05"
    MISSING_SLICES = "P06"
    DUPLICATE_SLICES = "P07"
    SCAN_TOO_SMALL = "P08"
    VOXELS_TOO_COARSE = "P09"
    NOT_HU = "P10"
    NO_HEAD = "P11"
    QUALITY_CHECK_FAILED = "P12"
    INVALID_VOLUME = "P13"
    PREPARATION_FAILED = "P14"

    @property
    def words(self) -> str:
        """Its name in words, where there is no room for the condition."""
        return self.name.lower().replace("_", " ").replace("sdd", "SDD").replace("sod", "SOD")


@dataclass(frozen=True)
class Info:
    """Meaning of a code.

    Attributes:
        condition: When it is raised; the message where nothing more precise is known.
        action: What the operator can do.
        severity: Default severity.
        attribute: DICOM keyword of the attribute concerned, if there is one.
    """

    condition: str
    action: str
    severity: Severity = Severity.ERROR
    attribute: str | None = None


CODES: Mapping[Code, Info] = MappingProxyType(
    {
        # radiographs
        Code.NOT_A_RADIOGRAPH: Info(
            "not DICOM, or not a radiograph (CR, DX, XA, XRF, their enhanced kinds, CT localisers)",
            "export the original radiograph; if it is a secondary capture, allow these "
            "(--allow-secondary-capture)",
            attribute="SOPClassUID",
        ),
        Code.UNDECODABLE_PIXEL_DATA: Info(
            "pixel data cannot be decoded",
            "export the image again, uncompressed",
            attribute="TransferSyntaxUID",
        ),
        Code.NOT_MONOCHROME: Info(
            "not a single-channel MONOCHROME1 or MONOCHROME2 image",
            "export the original greyscale image",
            attribute="PhotometricInterpretation",
        ),
        Code.MULTIFRAME_OR_SUBTRACTED: Info(
            "multi-frame image without a chosen frame, or subtracted image",
            "choose a frame of an image that is not subtracted (--frame)",
            attribute="NumberOfFrames",
        ),
        Code.DIFFERENT_STUDIES: Info(
            "the two radiographs belong to different studies or patients",
            "give the two radiographs of one examination of one patient",
            attribute="StudyInstanceUID",
        ),
        Code.NOT_A_PAIR: Info(
            "not exactly one frontal and one lateral radiograph",
            "name one frontal and one lateral radiograph, or set the views (--view)",
            attribute="ViewPosition",
        ),
        Code.TIME_GAP: Info(
            "too much time between the two radiographs",
            "check that the head was in the same pose in both radiographs",
            severity=Severity.WARNING,
            attribute="AcquisitionDateTime",
        ),
        Code.UNKNOWN_OR_OBLIQUE_VIEW: Info(
            "the view is unknown, or oblique",
            "set the views to AP, PA, LL or RL if the radiographs are plain ones (--view)",
            attribute="ViewPosition",
        ),
        Code.CONTRADICTORY_ORIENTATION: Info(
            "the orientation of the image contradicts its view",
            "look at the image, then set its view (--view) or its orientation "
            "(--frontal-orientation, --lateral-orientation)",
            attribute="PatientOrientation",
        ),
        Code.MISSING_ORIENTATION: Info(
            "the orientation of the image is not given",
            "set the patient directions of increasing column and of increasing row "
            "(--frontal-orientation, --lateral-orientation)",
            attribute="PatientOrientation",
        ),
        Code.INVALID_SDD: Info(
            "the distance from source to detector is missing or implausible",
            "set the distance from source to detector in mm (--sdd)",
            attribute="DistanceSourceToDetector",
        ),
        Code.INVALID_PIXEL_PITCH: Info(
            "the pixel pitch at the detector is missing or implausible",
            "set the pixel pitch at the detector in mm (--pitch)",
            attribute="ImagerPixelSpacing",
        ),
        Code.PIXEL_SPACING_MISMATCH: Info(
            "PixelSpacing differs from ImagerPixelSpacing; the latter is used",
            "check that ImagerPixelSpacing is the pitch at the detector",
            severity=Severity.WARNING,
            attribute="PixelSpacing",
        ),
        Code.MISSING_SOD: Info(
            "the distance from source to isocentre cannot be derived",
            "set the distance from the source to the middle of the head in mm (--sod)",
            attribute="DistanceSourceToPatient",
        ),
        Code.UNKNOWN_INTENSITY_RELATIONSHIP: Info(
            "the relation of pixel values to X-ray intensity is not given; only tones are used",
            "use the FOR PROCESSING image if there is one",
            severity=Severity.WARNING,
            attribute="PixelIntensityRelationship",
        ),
        Code.INVALID_PIXEL_VALUES: Info(
            "the pixel values are constant, saturated, noise or invalid, or the image is too large",
            "export the image again",
            attribute="PixelData",
        ),
        Code.BURNED_IN_TEXT: Info(
            "text may be burned into the image",
            "check the image and mask boxes with text (--frontal-mask, --lateral-mask)",
            severity=Severity.WARNING,
            attribute="BurnedInAnnotation",
        ),
        Code.FIELD_CUTS_HEAD: Info(
            "the exposed field cuts the head",
            "what lies outside either field is guessed; use uncollimated radiographs",
            severity=Severity.WARNING,
            attribute="CollimatorShape",
        ),
        Code.VIEWS_NOT_ORTHOGONAL: Info(
            "the two views are not about orthogonal",
            "use two radiographs taken at about 90 degrees to each other",
            attribute="PositionerPrimaryAngle",
        ),
        Code.FIELD_OF_VIEW_TRANSFORMED: Info(
            "the field of view was rotated or flipped; PatientOrientation is trusted",
            "check left and right in the preview",
            severity=Severity.WARNING,
            attribute="FieldOfViewRotation",
        ),
        Code.BODY_PART_NOT_HEAD: Info(
            "the body part is not stated as skull or head",
            "check that the radiograph shows a head",
            severity=Severity.WARNING,
            attribute="BodyPartExamined",
        ),
        Code.LOSSY_COMPRESSION: Info(
            "the image was compressed with loss",
            "use the image as acquired if there is one",
            severity=Severity.WARNING,
            attribute="LossyImageCompression",
        ),
        Code.CONTRADICTORY_LATERALITY: Info(
            "the statements about the side contradict each other",
            "look at the image, then set the view to LL or RL (--view)",
            attribute="ImageLaterality",
        ),
        Code.WRONG_POLARITY: Info(
            "air at the border comes out denser than the head, or the header contradicts itself "
            "about polarity",
            "look at the image, then set whether high stored values are dense",
            attribute="PixelIntensityRelationshipSign",
        ),
        Code.UNKNOWN_TUBE_SIDE: Info(
            "the side of the patient on which the tube of a localiser was is not known",
            "state it with --tube-side: A or P for the frontal, L or R for the lateral localiser",
            attribute="AngularPosition",
        ),
        Code.LOCALISER_GEOMETRY: Info(
            "the geometry of a localiser, or of the two together, is missing or not usable",
            "use the two localisers of one table position, untilted, as the scanner wrote them",
            attribute="ImagePositionPatient",
        ),
        Code.NO_HEAD_LOCALISERS: Info(
            "a CT study without a frontal and a lateral localiser of the head",
            "none; name the two localisers if they show a head",
            attribute="BodyPartExamined",
        ),
        Code.SEVERAL_LOCALISERS: Info(
            "several pairs of localisers, and nothing tells which one belongs to the head's scan",
            "name the two localisers to use",
            attribute="FrameOfReferenceUID",
        ),
        Code.MIXED_KINDS: Info(
            "radiographs and localisers in one study",
            "choose with --kind radiograph or --kind localiser",
            attribute="Modality",
        ),
        Code.HEAD_NOT_FOUND: Info(
            "no head is found in the localisers",
            "use localisers that show the head from above the vertex to the chin in both views",
            attribute="PixelData",
        ),
        Code.HEADER_CONTRADICTS_PIXELS: Info(
            "the header contradicts the pixel values",
            "export the image again; if it stays so, have the vendor of the device correct the "
            "attribute",
            attribute="PixelData",
        ),
        Code.REPROJECTION_DISAGREES: Info(
            "the reconstruction, projected back, does not agree with the radiograph",
            "check view, orientation, polarity and distances of both radiographs, and that they "
            "show one head",
            attribute="PixelData",
        ),
        Code.NOT_A_SKULL_VIEW: Info(
            "a kind of image that is never a plain view of the skull",
            "leave it out; give a frontal and a lateral radiograph of the head",
            attribute="Modality",
        ),
        Code.SLOT_SCAN: Info(
            "a slot scan, which has not the perspective of a radiograph",
            "give radiographs taken with a single exposure",
            attribute="ManufacturerModelName",
        ),
        # input files and archives
        Code.ARCHIVE_UNREADABLE: Info(
            "a zip archive cannot be read: damaged or encrypted",
            "send it again, without a password",
        ),
        Code.ARCHIVE_EXCEEDS_LIMITS: Info(
            "a zip archive exceeds the limits on members, size or compression",
            "unpack it yourself if you trust it, and put the files into the input folder",
        ),
        Code.FILE_NOT_EXAMINED: Info(
            "a file took too long to examine, or the process that examined it died or failed",
            "keep the file aside and report it; send the study again without it",
        ),
        Code.INPUT_UNREADABLE: Info(
            "a file or folder of the input cannot be read",
            "give the user of the program permission to read it, check link, disk and mount, and "
            "run again",
        ),
        Code.NO_SPACE_TO_UNPACK: Info(
            "there is no room to unpack a zip archive",
            "make space on the disk of the output folder and run again",
        ),
        # the site's key
        Code.INVALID_KEY_FILE: Info(
            "the key file is absent, too short, or readable by others",
            "create it with --create-key-file, or chmod 600 it",
        ),
        # runs
        Code.WRITE_FAILED: Info(
            "a result could not be written",
            "check free space and permissions of the output folder and run again",
        ),
        Code.RUN_FAILED: Info(
            "the worker process could not start, or the run failed unexpectedly",
            "check weights and device; run again with SPIDER_DEBUG=1 to see where, the details may "
            "name files",
        ),
        Code.MISSING_PACKAGE: Info(
            "an optional output was asked for and a package that it needs is missing",
            "install the extra that the message names, or leave the output out",
        ),
        Code.WORKER_DIED: Info(
            "the worker process died on this study, also when it was tried again",
            "keep the study aside and report it; check the memory of the machine",
        ),
        Code.TIME_LIMIT_EXCEEDED: Info(
            "the study took longer than the time limit",
            "raise --time-limit, or keep the study aside and report it",
        ),
        Code.NO_DISK_SPACE: Info(
            "the disk of the output folder is nearly full; the batch stopped before the next study",
            "make space and run again; what is done stays",
        ),
        Code.STUDY_FAILED: Info(
            "the study failed unexpectedly",
            "run again; if it fails again, run with SPIDER_DEBUG=1 to see where, the details may "
            "name files",
        ),
        Code.OUTPUT_IN_USE: Info(
            "another batch is working in this output folder",
            "wait for it to end, or name another output folder",
        ),
        Code.NODE_LACKS_FOLDERS: Info(
            "a node of the cluster does not see the input folder or cannot write to the output "
            "folder",
            "mount both under the same paths and for the same user on all nodes, and run again",
        ),
        Code.CLUSTER_UNAVAILABLE: Info(
            "the cluster cannot be reached, or has no room for a worker",
            "run `ray status` on this machine: it must answer, and show as many free CPUs and GPUs "
            "as a worker asks for",
        ),
        Code.NODE_DIFFERS: Info(
            "a node of the cluster has other software, weights or configs than this machine",
            "install the same versions and files under the same paths on all nodes",
        ),
        Code.GRID_CUTS_HEAD: Info(
            "the output grid is smaller than the field of view of 256 mm and may cut the head",
            "leave --shape out, or make spacing times shape 256 mm",
            severity=Severity.WARNING,
        ),
        Code.INVALID_OPTION: Info(
            "an option of monai.bundle run that no config has, or a path that it does not take",
            "correct the option; give paths as text",
        ),
        # site profiles
        Code.INVALID_PROFILE: Info(
            "the profile, or the overrides of a config, are not valid", "correct the named entry"
        ),
        Code.CONFIG_WRITABLE_BY_OTHERS: Info(
            "a config file belongs to another user or can be changed by others; it runs as code",
            "look at it, then chmod go-w it or own it; or give --trust-config",
        ),
        # the model
        Code.INVALID_WEIGHTS: Info(
            "the weights file is not one of this bundle: damaged, or of another kind",
            "name the model.pt of a training, or restore the bundle's models/model.pt",
        ),
        Code.OTHER_NETWORK: Info(
            "these weights belong to another network_def",
            "name the network_def that they were trained with, or keep the model.json of their "
            "training beside them",
        ),
        Code.INVALID_DESCRIPTION: Info(
            "the model.json beside the weights is not valid, or belongs to other weights",
            "copy model.pt and model.json of one training together",
        ),
        Code.NO_HEADS: Info(
            "there are no prepared heads (datalist.json or split.json) in the dataset folder",
            "name their folder (--dataset-dir, dataset_dir of the config) or set SPIDER_DATA; see "
            "docs/howto_train.md",
        ),
        # the network between this program and a PACS
        Code.INVALID_ADDRESS: Info(
            "an AE title or an address is not valid",
            "AE titles have 1 to 16 letters, digits, spaces or marks; write a peer as AE@host:port",
        ),
        Code.PEER_UNREACHABLE: Info(
            "the peer cannot be reached",
            "check host, port, firewall and whether the peer runs; then send again",
        ),
        Code.ASSOCIATION_REJECTED: Info(
            "the peer rejected the association",
            "have the peer's administrator enter this AE title; check the peer's AE title",
        ),
        Code.SOP_CLASS_REJECTED: Info(
            "the peer does not take this kind of object",
            "have the peer configured for CT Image Storage and Segmentation Storage",
        ),
        Code.OBJECT_REFUSED: Info(
            "the peer refused an object", "look the status up in the peer's log; then send again"
        ),
        Code.ASSOCIATION_LOST: Info(
            "the association broke off, or the peer did not answer in time",
            "check the peer and the network; then send again, which resumes where it stopped",
        ),
        Code.INVALID_RESULT: Info(
            "a result cannot be read, or is not what its report says", "reconstruct the study again"
        ),
        Code.CANNOT_LISTEN: Info(
            "the address cannot be listened on",
            "check the address; another program may have the port",
        ),
        Code.FOLDER_IN_USE: Info(
            "another process is working in this folder", "wait for it to end, or stop it"
        ),
        Code.SPOOL_FULL: Info(
            "the disk of the spool is nearly full; the object was refused (A700)",
            "make space; the sender then sends again",
        ),
        Code.MESSAGE_TOO_LARGE: Info(
            "a message is larger than allowed; the connection was closed",
            "raise --max-object-mb if the object is wanted",
        ),
        Code.INVALID_OBJECT: Info(
            "an object cannot be read, or is not the announced one; it was refused (C000, A900)",
            "check the export settings of the sender",
        ),
        Code.SPOOL_WRITE_FAILED: Info(
            "an object could not be written; it was refused (A700)",
            "check free space and permissions of the spool; the sender then sends again",
        ),
        Code.CALLER_REJECTED: Info(
            "an association was rejected: unknown caller, wrong called title, or too many",
            "allow the caller with --allow, or correct the titles at its side",
        ),
        # CT scans that cannot become head cases
        Code.NOT_CT: Info(
            "not a CT image (CT Image Storage, one grey value per pixel)",
            "leave other modalities out; export Enhanced CT as single frames",
        ),
        Code.LOCALISER: Info("localiser (scout) image", "none; the axial series is used instead"),
        Code.SCAN_UNREADABLE: Info(
            "a file cannot be read or its pixels cannot be decoded",
            "export the series again uncompressed",
        ),
        Code.INCONSISTENT_SLICES: Info(
            "slices lack their position, orientation or pixel spacing, or do not agree in it",
            "export the original axial series by itself",
        ),
        Code.GANTRY_TILT: Info(
            "gantry tilt above 35 degrees",
            "use a series with less tilt; smaller tilts are corrected",
        ),
        Code.MISSING_SLICES: Info(
            "slices are missing (a gap above 1.5 steps), or one lies more than 1 mm out of line",
            "export the complete series; reconstruct it with one spacing",
        ),
        Code.DUPLICATE_SLICES: Info(
            "several slices at one position (within 0.01 mm)",
            "export each reconstruction or phase as a series of its own",
        ),
        Code.SCAN_TOO_SMALL: Info(
            "fewer than 16 slices, or the scan covers less than 80 mm",
            "use a scan that covers the head",
        ),
        Code.VOXELS_TOO_COARSE: Info("voxels larger than 6.5 mm", "use a thinner reconstruction"),
        Code.NOT_HU: Info(
            "values are not HU: no rescale, below 1 % air (under -700 HU), or nothing above 200 HU",
            "export the original CT; scale volumes to HU",
        ),
        Code.NO_HEAD: Info(
            "no head found (correlation below 0.5)",
            "use a scan of the head, or state its isocentre",
        ),
        Code.QUALITY_CHECK_FAILED: Info(
            "the prepared head fails a quality check", "look at the checks in the report"
        ),
        Code.INVALID_VOLUME: Info(
            "volume file that is not one 3D image with a known orientation",
            "convert one volume per file, with the orientation set (sform or qform; NRRD space)",
        ),
        Code.PREPARATION_FAILED: Info(
            "preparing failed unexpectedly",
            "run again with SPIDER_DEBUG=1 to see where; the details may name files",
        ),
    }
)
