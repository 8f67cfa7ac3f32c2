"""Every limit of the HTTP interface, in one place."""

from __future__ import annotations

from fashion_dml.data.decode import MAX_PIXELS
from fashion_dml.index.manifest import ITEM_ID as ITEM_ID

BODY_BYTES = 12 << 20  # of a request, counted while it arrives
BODY_SECONDS = 20.0  # for the whole body to arrive
PIXELS = MAX_PIXELS  # of an image, before it is decoded
K_DEFAULT = 10
K_MOST = 200
VERTICALS_MOST = 64  # in one filter
ATTRIBUTES_MOST = 16  # columns of one filter
VALUES_MOST = 32  # of one column of a filter
CHANGES_MOST = 1000  # upserts, and deletes, of one request
VECTOR_MOST = 4096  # numbers of a vector, before it is compared with the model's
FORM_FIELDS = 4
FORM_FIELD_BYTES = 4096
IMAGE_CACHE_SECONDS = 3600  # browsers may keep a thumbnail so long before they ask again
