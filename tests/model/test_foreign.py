"""Names of models that are nowhere."""

import pytest

from dynimg_vl.errors import InputError
from dynimg_vl.model.foreign import check_model_name


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch, tmp_path):
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens

    def no_waiting(seconds):
        raise AssertionError(f"waits {seconds} s to try again")

    monkeypatch.setattr(_http.time, "sleep", no_waiting)
    with pytest.raises(InputError, match="somebody/model is no folder here, and the hub gave no model") as refused:
        check_model_name("somebody/model")
    assert "\n" not in str(refused.value)


def test_offline_nothing_is_asked(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: pytest.fail("asked"))
    check_model_name("somebody/model")  # what is cached is for transformers to find
