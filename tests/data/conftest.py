"""A cache and a network of the tests' own."""

import pooch
import pytest


class Network:
    """Stands for the mirrors: maps an address to bytes or to an error, and remembers what was asked."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def __call__(self, downloader, url, output_file, *args, **options):
        self.asked.append(url)
        answer = self.answers.get(url, OSError("no network in tests"))
        if isinstance(answer, Exception):
            raise answer
        with open(output_file, "wb") as file:
            file.write(answer)
        downloader.progressbar.total = len(answer)  # the three calls that pooch makes
        downloader.progressbar.update(len(answer))
        downloader.progressbar.reset()
        downloader.progressbar.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder)
    monkeypatch.delenv("NESTAX_DATA_DIR", raising=False)
    return folder


@pytest.fixture
def network(monkeypatch):
    network = Network({})
    monkeypatch.setattr(
        pooch.HTTPDownloader, "__call__", lambda self, *args, **options: network(self, *args, **options)
    )
    return network


def put(folder, content, name, filename):
    path = folder / name / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
