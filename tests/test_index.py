"""index.json: what must never be written."""

import pytest

import fastcas
from fastcas.errors import InvalidError
from fastcas.model import Index

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@pytest.mark.parametrize("way", ["put", "update"])
@pytest.mark.parametrize("wrong", [Index(media_type=DOCKER_LIST), "index", {"manifests": []}])
def test_what_cant_be_read_again_isnt_written(tmp_path, way, wrong):
    with fastcas.create(tmp_path / "image") as cas:
        before = (tmp_path / "image" / "index.json").read_bytes()
        with pytest.raises(InvalidError if isinstance(wrong, Index) else TypeError):
            if way == "put":
                cas.put_index(wrong)
            else:
                cas.update_index(lambda index: wrong)
        assert (tmp_path / "image" / "index.json").read_bytes() == before
        cas.get_index()


def test_a_directory_in_the_place_of_the_index(tmp_path):
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        index = cas.get_index()
        (tmp_path / "image" / "index.json").unlink()
        (tmp_path / "image" / "index.json").mkdir()
        for call in (cas.get_index, lambda: cas.put_index(index)):
            with pytest.raises(InvalidError) as caught:
                call()
            assert caught.value.path == str(tmp_path / "image" / "index.json")
        assert cas.clean() == []
