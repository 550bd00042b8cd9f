"""What tests of the endpoint engine share: an engine that does not wait long, and a reader of what was sent."""

import base64
import io

import numpy as np
from PIL import Image

from dynimg_vl.inference.chat_client import ChatClient, Patience
from dynimg_vl.inference.endpoint import EndpointEngine

KEY = "sk-test-0123456789abcdef"
QUICK = Patience(attempts=3, backoff_seconds=0.001, timeout_seconds=20)


def engine_of(server, representation=None, *, patience=QUICK, key=KEY, **options):
    return EndpointEngine(ChatClient("some-model", key, server.base_url, patience), representation, **options)


def ask(server, *requests, **options):
    return list(engine_of(server, **options).predict(requests))


def content_of(body):
    """Give the parts of the user's turn."""
    return body["messages"][-1]["content"]


def pictures_of(body):
    """Decode the pictures of a request: how their addresses begin, and their pixels (n, 3, H, W)."""
    urls = [part["image_url"]["url"] for part in content_of(body) if part["type"] == "image_url"]
    heads = {url.partition(",")[0] for url in urls}
    assert len(heads) == 1
    files = [base64.b64decode(url.partition(",")[2], validate=True) for url in urls]
    images = [Image.open(io.BytesIO(file)) for file in files]
    return heads.pop(), np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])
