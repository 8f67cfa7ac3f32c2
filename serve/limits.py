"""Every limit of the HTTP interface, in one place."""

from __future__ import annotations

from fashion_dml.data.decode import MAX_PIXELS
from fashion_dml.index.manifest import ITEM_ID as ITEM_ID

BODY_BYTES = 12 << 20  # of a request, counted while it arrives
BODY_SECONDS = 20.0  # for the whole body to arrive
PIXELS = MAX_PIXELS  # of an image, before it is decoded
K_DEFAULT = 10
K_MOST = 200
PAGE_DEPTH = 1000  # offset + k: a list is no longer than that
LIKE_MOST = 16  # items that results are to be like, and as many that they aren't
UNLIKE_WEIGHT = 0.5  # of the mean of those that they aren't, beside 1 of the others' mean
BATCH_QUERIES = 256  # vectors and items of one batch
BATCH_IMAGES = 64
BATCH_RESULTS = 25_600  # queries x (offset + k) of one batch
BATCH_BODY_BYTES = 48 << 20
DECODED_AT_ONCE = 4  # images in an ingress replica: each may take PIXELS x 3 bytes
VERTICALS_MOST = 64  # in one filter
ATTRIBUTES_MOST = 16  # columns of one filter
VALUES_MOST = 32  # of one column of a filter
CHANGES_MOST = 1000  # upserts, and deletes, of one request
VECTOR_MOST = 4096  # numbers of a vector, before it is compared with the model's
FORM_FIELDS = 4
FORM_FIELD_BYTES = 4096
IMAGE_CACHE_SECONDS = 31_536_000  # browsers keep a thumbnail of one state of an item: another state has another address
