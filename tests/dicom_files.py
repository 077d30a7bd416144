"""DICOM series as scanners write them."""

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from kitspipe.imaging.header import header_for


def write_slice(path, pixels, position, header, **changed):
    """One axial slice as a scanner writes it: unsigned values, HU + 1024."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    part = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    part.SOPClassUID, part.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    part.Modality, part.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    part.SeriesInstanceUID, part.SeriesDescription = "1.2.3", "arterial"
    columns = np.reshape(header.direction, (3, 3))
    part.ImagePositionPatient = [f"{value:.6f}" for value in position]
    part.ImageOrientationPatient = [f"{value:.10f}" for value in columns[:, :2].T.ravel()]
    part.PixelSpacing = [header.spacing[1], header.spacing[0]]
    part.Rows, part.Columns = pixels.shape
    part.SamplesPerPixel, part.PhotometricInterpretation = 1, "MONOCHROME2"
    part.BitsAllocated, part.BitsStored, part.HighBit, part.PixelRepresentation = 16, 16, 15, 0
    part.RescaleSlope, part.RescaleIntercept = 1, -1024
    part.PixelData = (pixels.astype(np.int32) + 1024).astype("<u2").tobytes()
    for name, value in changed.items():
        if value is None:
            delattr(part, name)
        else:
            setattr(part, name, value)
    pydicom.dcmwrite(path, part, enforce_file_format=True)


def write_series(folder, volume, *, shift=None, skipped=(), prefix="", **changed):
    """A series of the volume's slices under names that say nothing of their order."""
    folder.mkdir(exist_ok=True)
    header = header_for(volume.grid)
    normal = np.reshape(header.direction, (3, 3))[:, 2]
    names = np.random.default_rng(5).permutation(len(volume.array))
    for k, pixels in enumerate(volume.array):
        if k in skipped:
            continue
        position = np.asarray(header.origin) + normal * header.spacing[2] * k
        if shift is not None:
            position = position + shift(k, normal)
        write_slice(folder / f"{prefix}{names[k]:03d}", pixels, position, header, **changed)
    return folder
