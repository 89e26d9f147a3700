"""What a radiologist's workstation makes: key object notes and structured reports, by another's library."""

from collections.abc import Sequence
from dataclasses import dataclass

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import (
    CodeContentItem,
    ComprehensiveSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    RelationshipTypeValues,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

CONTAINS, INFERRED = RelationshipTypeValues.CONTAINS, RelationshipTypeValues.INFERRED_FROM
PERSON = "Reader^Rita"


def person(name: str = PERSON) -> ObserverContext:
    return ObserverContext(codes.DCM.Person, PersonObserverIdentifyingAttributes(name=name))


def device() -> ObserverContext:
    return ObserverContext(codes.DCM.Device, DeviceObserverIdentifyingAttributes(uid=generate_uid()))


def note(
    images: Sequence[Dataset],
    *,
    title: Code = codes.DCM.OfInterest,
    description: str | None = None,
    observer: ObserverContext | None = None,
) -> Dataset:
    """A Key Object Selection of images."""
    content = KeyObjectSelection(title, images, observer_person_context=observer, description=description)
    made: Dataset = KeyObjectSelectionDocument(
        images,
        content,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Workstation",
    )
    return made


@dataclass(frozen=True)
class Group:
    """A container of a report: a finding, with images that stand beside it, or that it refers to."""

    finding: Code
    beside: Sequence[Dataset] = ()
    inferred_from: Sequence[Dataset] = ()


def report(
    evidence: Sequence[Dataset],
    groups: Sequence[Group],
    *,
    observer: ObserverContext | None = None,
    verified_by: str | None = None,
) -> Dataset:
    """A Comprehensive SR with the findings, each in a container of its own, that speaks of this evidence."""
    root = ContainerContentItem(Code("18748-4", "LN", "Diagnostic Imaging Report"), template_id="2000")
    root.ContentSequence = ContentSequence(is_root=False)
    if observer is not None:
        root.ContentSequence.extend(ObservationContext(observer_person_context=observer))
    root.ContentSequence.extend(_container(group) for group in groups)
    made: Dataset = ComprehensiveSR(
        evidence,
        root,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Workstation",
        is_complete=True,
        is_final=True,
        is_verified=verified_by is not None,
        verifying_observer_name=verified_by,
        verifying_organization="Hospital" if verified_by else None,
    )
    return made


def _container(group: Group) -> ContainerContentItem:
    finding = CodeContentItem(codes.DCM.Finding, group.finding, CONTAINS)
    if group.inferred_from:
        finding.ContentSequence = ContentSequence([_image(ds, INFERRED) for ds in group.inferred_from])
    items: list[ContentItem] = [finding, *(_image(ds, CONTAINS) for ds in group.beside)]
    container = ContainerContentItem(codes.DCM.Findings, relationship_type=CONTAINS)
    container.ContentSequence = ContentSequence(items)
    return container


def _image(ds: Dataset, relationship: RelationshipTypeValues) -> ImageContentItem:
    return ImageContentItem(
        codes.DCM.SourceImage, ds.SOPClassUID, ds.SOPInstanceUID, relationship_type=relationship
    )
