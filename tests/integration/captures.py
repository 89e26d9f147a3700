"""Small results as a report holds them."""

import io

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from tests.peers.studies import RECEIVED

SERIES = "1.2.826.0.1.3680043.10.9"


def capture(number: int) -> bytes:
    """The file of a secondary capture of the received study; its UID ends with the number."""
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = f"1.2.826.0.1.3680043.10.9.{number}"
    ds.StudyInstanceUID = RECEIVED.study_uid
    ds.SeriesInstanceUID = SERIES
    ds.PatientID = "4711"
    ds.Modality = "OT"
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = bytes(64)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = io.BytesIO()
    dcmwrite(content, ds, enforce_file_format=True)
    return content.getvalue()
