"""Every limit of the HTTP interface, in one place."""

from __future__ import annotations

from fashion_dml.data import decode
from fashion_dml.index.manifest import ITEM_ID as ITEM_ID

BODY_BYTES = 12 << 20  # of a request, counted while it arrives
BODY_SECONDS = 20.0  # for the whole body to arrive
PIXELS = decode.MAX_PIXELS  # of an image; this and the next are checked before it is decoded
SIDE = decode.MAX_SIDE  # pixels
SAMPLES = decode.MAX_SAMPLES  # bytes of its pixels as the file codes them
SCANS = decode.MAX_SCANS  # of a JPEG
SCANNED = decode.MAX_SCANNED  # pixels of all its scans together
BODIES_BYTES = 256 << 20  # of all requests that one ingress replica works on
DECODES_AT_ONCE = 2  # in an ingress replica; one of the largest image holds about 0.5 GB
JSON_VALUES = 20_000  # in the body of a search
JSON_NAMES = 1_000  # of fields, in the body of a search
JSON_VALUES_BATCH = 1_100_000  # in the body of a batch of searches: its vectors, as a list
JSON_VALUES_CHANGES = 1_000_000  # in a body of changes
JSON_NAMES_CHANGES = 50_000
MISTAKES = 100  # of a body, before they are counted rather than told
K_DEFAULT = 10
K_MOST = 200
PAGE_DEPTH = 1000  # offset + k: a list is no longer than that
LIKE_MOST = 16  # items that results are to be like, and as many that they aren't
UNLIKE_WEIGHT = 0.5  # of the mean of those that they aren't, beside 1 of the others' mean
BATCH_QUERIES = 256  # vectors and items of one batch
BATCH_IMAGES = 64
BATCH_RESULTS = 25_600  # queries x (offset + k) of one batch
BATCH_BODY_BYTES = 48 << 20
VERTICALS_MOST = 64  # in one filter
ATTRIBUTES_MOST = 16  # columns of one filter
VALUES_MOST = 32  # of one column of a filter
CHANGES_MOST = 1000  # upserts, and deletes, of one request
VECTOR_MOST = 4096  # numbers of a vector, before it is compared with the model's
FORM_FIELDS = 4
FORM_FIELD_BYTES = 4096
IMAGE_CACHE_SECONDS = 31_536_000  # browsers keep a thumbnail of one state of an item: another state has another address
