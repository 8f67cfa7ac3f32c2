"""Settings of photos and batches: from a source to the dataset, from the dataset to the device."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fashion_dml.config.section import Positive, Section, Share


class Columns(Section):
    """Which column of a list (CSV or Parquet) holds what."""

    path: str = Field("path", description="image file, relative to the list, or its address in an object store (s3://...)")
    image: str = Field("image", description="encoded image bytes, in a Parquet list; used where the column is there")
    product_id: str = Field("product_id", description="images with equal values show the same product")
    vertical: str = Field("vertical", description="the product's vertical: dresses, shoes, ...")
    split: str = Field("split", description="train or test (or validation, query, gallery), by product")
    image_id: str = Field("", description="unique image id; empty: the path, or the row where images are bytes")
    attributes: tuple[str, ...] = Field(
        ("category", "colour", "perceived_colour_master_name", "pattern", "gender", "garment_group_name", "section_name"),
        description="columns whose values become attributes; those missing from the list are left out",
    )


class Generated(Section):
    """The procedural catalogue."""

    products_per_vertical: Positive = Field(60, description="products (styles) of each vertical")
    verticals: Annotated[int, Field(ge=1, le=8)] = Field(5, description="number of verticals, at most 8")
    max_variants: Annotated[int, Field(ge=2, le=12)] = Field(5, description="most images of one product; at least 2")
    test_share: Share = Field(0.35, description="share of the products that are test products")
    image_height: Positive = Field(192, description="pixels")
    image_width: Positive = Field(128, description="pixels")


class Ingest(Section):
    """From photos to the dataset layout."""

    columns: Columns = Columns()
    generated: Generated = Generated()
    unlabelled: bool = Field(
        False,
        description="take training rows without a product_id as unlabelled images: the unified model learns from them, nothing else",
    )
    csv: str = Field("", description="name of the CSV or Parquet list inside the source; empty: the only one at its top")
    crop: Literal["auto", "no", "yes"] = Field(
        "auto", description="cut images to a benchmark's boxes; auto: where its protocol does, street photos of Street2Shop"
    )
    highres: bool = Field(False, description="read img_highres instead of img, where a benchmark has both")
    distractors: bool = Field(
        True, description="gallery of Street2Shop holds training products' shop photos too, as published; false: easier"
    )
    short_side: Annotated[int, Field(ge=32, le=2048)] = Field(
        128, description="pixels; larger images are scaled down to it, smaller ones kept"
    )
    jpeg_quality: Annotated[int, Field(ge=30, le=100)] = Field(92, description="quality of the stored JPEG, 30-100")
    validation_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.12, description="share of the training products held out for validation"
    )
    shards: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0, description="shards of the product hash; 0: 4, and more from 32,768 images on"
    )
    row_group_images: Annotated[int, Field(ge=1, le=256)] = Field(256, description="most images of a row group")
    row_group_bytes: Annotated[int, Field(ge=1 << 16, le=8 << 20)] = Field(8 << 20, description="most bytes of a row group")
    min_row_groups: Positive = Field(8, description="row groups a small vertical is cut into, so that it fills several lanes")
    max_unreadable: Share = Field(0.01, description="share of images that may be unreadable before the job stops")


class Data(Section):
    """How a plan is streamed."""

    height: Annotated[int, Field(ge=32, le=1024)] = Field(128, description="pixels of the model's input")
    width: Annotated[int, Field(ge=32, le=1024)] = Field(96, description="pixels of the model's input")
    executor: Literal["ray", "threads"] = Field(
        "ray", description="ray: Ray Data; threads: the same plan read by threads of the worker"
    )
    decode: Literal["auto", "task", "worker"] = Field(
        "auto",
        description="where JPEG is decoded: in Ray Data tasks, or in the worker's collate thread; auto: worker below 16 CPUs",
    )
    lanes: Positive = Field(2, description="independent batch sequences; the global batch is one batch of every lane")
    window_images: Positive = Field(
        2048, description="images that a lane mixes at a time: it reads row groups until it has so many"
    )
    prefetch_batches: Positive = Field(4, description="most batches held ready for the trainer")
    prefetch_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        256 << 20, description="most bytes of ready batches, and of images on their way to a worker"
    )
    max_corrupt: Share = Field(0.01, description="share of corrupt images before the job stops")


class Augment(Section):
    """Random changes of training images, on the device; seeded by (seed, epoch, step, lane, row)."""

    scale: tuple[float, float] = Field(
        (0.8, 1.1), description="share of the photo's sides that is shown, drawn from this range; above 1 zooms out"
    )
    aspect: Annotated[float, Field(ge=0, lt=1)] = Field(0.08, description="largest relative change of aspect")
    shift: Share = Field(0.08, description="largest shift, share of the side")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(8.0, description="largest rotation, degrees")
    flip: Share = Field(0.5, description="probability of a horizontal flip")
    flip_vertical: Share = Field(0.0, description="probability of a vertical flip; for fabrics, which have no top")
    padding: Literal["border", "reflect"] = Field(
        "border", description="what is shown beyond the photo: its border goes on, or its mirror image, for fabrics"
    )
    shade: Share = Field(0.0, description="largest relative difference of light from the photo's middle to its edge")
    light: Share = Field(0.3, description="largest relative change of brightness and contrast")
    colour: Share = Field(0.8, description="probability of a new hue and saturation")
    grey: Share = Field(0.2, description="probability of greyscale")
    invert: Share = Field(0.1, description="probability of inverted lightness")
    erase: Share = Field(0.15, description="probability of an erased rectangle")

    @model_validator(mode="after")
    def _range(self) -> Augment:
        low, high = self.scale
        if not 0 < low <= high <= 4:
            raise ValueError(f"scale is from {low} to {high}; it must rise within 0 to 4")
        return self
