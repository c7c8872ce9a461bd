"""Two folders of pictures, paired by name: no angles, no patients."""

from pathlib import Path

from nightshift.pictures import mask_picture, paired, picture
from nightshift.raw import Problems, RawCase, checked


def folder_cases(images: Path, masks: Path, problems: Problems) -> list[RawCase]:
    """A case per pair. Raises UserError as `pictures.paired` does."""

    def case(name: str, image: Path, mask: Path) -> RawCase:
        read = lambda: checked(picture(image), mask_picture(mask), mask)  # noqa: E731
        return RawCase(name, "", None, "", (image, mask), read, str(image))

    return [case(name, *files) for name, files in paired(images, masks).items()]
