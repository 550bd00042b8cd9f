"""What the tests of the model share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Run tiny models on one thread: on several they spend most of their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
