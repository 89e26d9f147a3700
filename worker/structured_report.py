"""A study's results as a Comprehensive 3D SR after TID 1500, Measurement Report (PS3.16)."""

from collections.abc import Iterable, Sequence

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from highdicom.sr.utils import collect_evidence
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from hilum import __version__
from hilum.eligibility import RADIOGRAPHS
from hilum.header import text
from hilum.labels import LOCAL_SCHEME
from hilum.uids import derived_uid
from worker.instance import new_instance
from worker.results import FINDING_CODES, NetworkName, Predecessor, ReadImage, StudyResult

DISCLAIMER = "AI result, not for diagnosis; not a medical device."
SERIES_NUMBER = 9001
_ALGORITHM = "Hilum chest radiograph classifier"

_PLAIN_CHEST_XRAY = Code("399208008", "SCT", "Plain chest X-ray")
_ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
_ENGLISH = Code("en", "RFC5646", "English")
_SOURCE = Code("260753009", "SCT", "Source")
_QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
_OUT_OF_DISTRIBUTION = Code("OOD", LOCAL_SCHEME, "Out-of-distribution score")
_PERCENT = Code("%", "UCUM", "Percent")
_NO_UNITS = Code("1", "UCUM", "no units")
_MODALITIES = {"CR": codes.cid29.ComputedRadiography, "DX": codes.cid29.DigitalRadiography}
_VIEWS = {
    "PA": codes.cid4010.PosteroAnterior,
    "AP": codes.cid4010.AnteroPosterior,
    "LATERAL": Code("399067008", "SCT", "lateral"),
}


def structured_report(result: StudyResult) -> Dataset:
    """Return the report of one revision of a study, ready to be saved or sent.

    Every image considered is in the image library; each assessed one has a measurement group (TID 1501) with
    its finding, a probability in percent per label and its heat map; for each of the others a text says why
    it was not assessed, and by which network if one refused it. The same result gives the same bytes.
    """
    with disable_value_validation():  # the source's UIDs are repeated as they are, valid or not
        content = _measurement_report(result)
        report = new_instance(
            _whose(result.images),
            sop_class_uid=Comprehensive3DSRStorage,
            uid=derived_uid(result.study_uid, result.edition, "sr"),
            series_uid=derived_uid(result.study_uid, result.edition, "sr", "series"),
            modality="SR",
            created=result.created,
        )
        report.StudyInstanceUID = result.study_uid
        _add_document(report, result, content)
        report.update(content)
        return report


def _whose(images: Sequence[ReadImage]) -> Dataset:
    """The header that patient and study are copied from: others send captures into a study, with errors."""
    return max(images, key=lambda image: (image.label is not None, _is_radiograph(image.header))).header


def _is_radiograph(header: Dataset) -> bool:
    return text(header, "SOPClassUID") in RADIOGRAPHS


def _add_document(report: Dataset, result: StudyResult, content: Dataset) -> None:
    report.SeriesNumber = SERIES_NUMBER
    report.SeriesDescription = "AI findings - not for diagnosis"
    report.InstanceNumber = result.revision
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.PreliminaryFlag = "PRELIMINARY"
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    report.CodingSchemeIdentificationSequence = [_coding_scheme()]
    report.CurrentRequestedProcedureEvidenceSequence = _evidence(result, content)
    if result.predecessors:
        report.PredecessorDocumentsSequence = [_predecessor(one) for one in result.predecessors]


def _coding_scheme() -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator = LOCAL_SCHEME
    item.CodingSchemeName = "Hilum local codes"
    item.CodingSchemeResponsibleOrganization = "Hilum"
    return item


def _evidence(result: StudyResult, content: Dataset) -> list[Dataset]:
    instances = [_identity(ds, result) for ds in (*(i.header for i in result.images), *result.heat_maps)]
    same_study, _ = collect_evidence(instances, content, result.study_uid)
    return list(same_study)


def _identity(header: Dataset, result: StudyResult) -> Dataset:
    item = Dataset()
    for keyword in ("SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"):
        setattr(item, keyword, text(header, keyword))
    item.StudyInstanceUID = result.study_uid
    return item


def _predecessor(predecessor: Predecessor) -> Dataset:
    instance = Dataset()
    instance.ReferencedSOPClassUID = predecessor.sop_class_uid
    instance.ReferencedSOPInstanceUID = predecessor.uid
    series = Dataset()
    series.SeriesInstanceUID = predecessor.series_uid
    series.ReferencedSOPSequence = [instance]
    study = Dataset()
    study.StudyInstanceUID = predecessor.study_uid
    study.ReferencedSeriesSequence = [series]
    return study


def _measurement_report(result: StudyResult) -> Dataset:
    """Return the root of the content tree, TID 1500.

    Put together here and not by highdicom's MeasurementReport, which refuses a report without measurements:
    one of a study of which no image could be assessed is such a report.
    """
    root = ContainerContentItem(name=codes.DCM.ImagingMeasurementReport, template_id="1500")
    root.ContentSequence = ContentSequence()
    root.ContentSequence.extend(LanguageOfContentItemAndDescendants(CodedConcept.from_code(_ENGLISH)))
    root.ContentSequence.extend(_observation_context())
    root.ContentSequence.append(
        CodeContentItem(
            codes.DCM.ProcedureReported, _PLAIN_CHEST_XRAY, RelationshipTypeValues.HAS_CONCEPT_MOD
        )
    )
    root.ContentSequence.append(_image_library(result.images))
    groups = [item for group in _measurement_groups(result) for item in group]
    if groups:
        root.ContentSequence.append(_container(codes.DCM.ImagingMeasurements, groups))
    root.ContentSequence.append(_container(_QUALITATIVE_EVALUATIONS, _comments(result)))
    return root


def _observation_context() -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", __version__),
        name="Hilum",
        manufacturer_name="Hilum",
        model_name=f"Hilum {__version__}",
        serial_number=__version__,
    )
    return ObservationContext(observer_device_context=ObserverContext(codes.DCM.Device, device))


def _container(name: Code, items: Sequence[ContentItem]) -> ContainerContentItem:
    container = ContainerContentItem(name, relationship_type=RelationshipTypeValues.CONTAINS)
    container.ContentSequence = ContentSequence(items)
    return container


def _image_library(images: Iterable[ReadImage]) -> ContainerContentItem:
    """Return TID 1600 with one group; every image with what its header says of modality and view."""
    group = _container(codes.DCM.ImageLibraryGroup, [_library_entry(image) for image in images])
    return _container(codes.DCM.ImageLibrary, [group])


def _library_entry(image: ReadImage) -> ImageContentItem:
    entry = _image_item(image.header, _SOURCE, RelationshipTypeValues.CONTAINS)
    known = (
        (codes.DCM.Modality, _MODALITIES.get(text(image.header, "Modality"))),
        (codes.DCM.ImageView, _VIEWS.get(image.view)),
    )
    described = [
        CodeContentItem(name, value, RelationshipTypeValues.HAS_ACQ_CONTEXT)
        for name, value in known
        if value is not None
    ]
    if described:
        entry.ContentSequence = ContentSequence(described)
    return entry


def _image_item(header: Dataset, purpose: Code, relationship: RelationshipTypeValues) -> ImageContentItem:
    sop_class_uid, uid = text(header, "SOPClassUID"), text(header, "SOPInstanceUID")
    return ImageContentItem(purpose, sop_class_uid, uid, relationship_type=relationship)


def _measurement_groups(result: StudyResult) -> list[MeasurementsAndQualitativeEvaluations]:
    return [
        _measurement_group(result, image, image.label, f"Radiograph {number} {image.view}".strip())
        for number, image in enumerate(result.images, start=1)
        if image.label is not None
    ]


def _measurement_group(
    result: StudyResult, image: ReadImage, label: str, name: str
) -> MeasurementsAndQualitativeEvaluations:
    """Return TID 1501; the tracking UID is the same in every revision."""
    sop_class_uid, uid = text(image.header, "SOPClassUID"), text(image.header, "SOPInstanceUID")
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(derived_uid(result.study_uid, uid, "tracking"), name),
        finding_type=FINDING_CODES[label],
        algorithm_id=None if result.network is None else _algorithm(result.network),
        measurements=_measurements(image),
        source_images=[SourceImageForMeasurementGroup(sop_class_uid, uid)],
    )
    group[0].ContentSequence.extend(
        _image_item(heat_map, codes.DCM.Saliency, RelationshipTypeValues.CONTAINS)
        for heat_map in result.heat_maps
        if heat_map.SourceImageSequence[0].ReferencedSOPInstanceUID == uid
    )
    return group


def _algorithm(network: NetworkName) -> AlgorithmIdentification:
    """Return TID 4019."""
    return AlgorithmIdentification(
        name=_ALGORITHM,
        version=network.version,
        parameters=[f"sha256 {network.digest}"],
        family=_ARTIFICIAL_INTELLIGENCE,
        manufacturer="Hilum",
    )


def _measurements(image: ReadImage) -> list[Measurement]:
    measurements = [_probability(label, p) for label, p in (image.probabilities or {}).items()]
    if image.ood is not None:
        measurements.append(Measurement(_OUT_OF_DISTRIBUTION, round(float(image.ood), 4), _NO_UNITS))
    return measurements


def _probability(label: str, probability: float) -> Measurement:
    """Return TID 300 with the finding it is the probability of as a modifier of its name."""
    measurement = Measurement(codes.DCM.Probability, round(100 * float(probability), 2), _PERCENT)
    finding = CodeContentItem(codes.DCM.Finding, FINDING_CODES[label], RelationshipTypeValues.HAS_CONCEPT_MOD)
    measurement[0].ContentSequence = ContentSequence([finding])
    return measurement


def _comments(result: StudyResult) -> list[TextContentItem]:
    comments = [TextContentItem(codes.DCM.Comment, DISCLAIMER, RelationshipTypeValues.CONTAINS)]
    comments.extend(
        _not_assessed(image, result.network)
        for image in result.images
        if image.not_assessed_because is not None
    )
    return comments


def _not_assessed(image: ReadImage, network: NetworkName | None) -> TextContentItem:
    """Return why, and which network says so if it was one: no measurement group names it."""
    sentence = f"Not assessed, because {image.not_assessed_because}"
    if network is not None and image.ood is not None:
        sentence += f" ({_ALGORITHM} {network.version}, sha256 {network.digest}; score {image.ood:.4f})"
    comment = TextContentItem(codes.DCM.Comment, sentence, RelationshipTypeValues.CONTAINS)
    comment.ContentSequence = ContentSequence(
        [_image_item(image.header, _SOURCE, RelationshipTypeValues.INFERRED_FROM)]
    )
    return comment
