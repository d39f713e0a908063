"""Uploading a folder: in parallel blocks, with flat memory, going on after a cut.

The SDK's own upload sends every file anew after a cut. Here the place is named by the content's
digest, and blocks by their number, so that what lies there already is known to be right: files
that were committed and blocks that were staged before the cut are not sent again.
"""

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_phi3.azure.client import Workspace

BLOCK_BYTES = 8 << 20
"""Size of a block: memory in use is this times the workers."""
_WORKERS = 8
_DATASTORE = "workspaceblobstore"

Progress = Callable[[int], None]
"""Gets the number of bytes that are there in addition."""


@dataclass(frozen=True, slots=True)
class _Block:
    path: Path
    blob: Any
    number: int
    size_bytes: int

    @property
    def id(self) -> str:
        return base64.b64encode(f"{self.number:08}".encode()).decode()


def upload_folder(workspace: Workspace, folder: Path, digest: str, *, progress: Progress) -> str:
    """Bring a folder to the project's default datastore; return its ``azureml://`` address.

    Args:
        workspace: The open project.
        folder: What is sent; its name is kept.
        digest: SHA-256 of the content, which names the place.
        progress: Told as bytes arrive, also those that were there before.

    Raises:
        AzureError: The storage refuses or does not answer; a re-run goes on.
    """
    prefix = f"LocalUpload/{digest}/{folder.name}"
    with workspace.session(f"upload of {folder.name}") as ml:
        container = open_container(ml)
        with closing(container), ThreadPoolExecutor(_WORKERS) as pool:
            there = {blob.name: blob.size for blob in container.list_blobs(name_starts_with=prefix)}
            small: list[tuple[Any, Path]] = []
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                name = f"{prefix}/{path.relative_to(folder).as_posix()}"
                size_bytes = path.stat().st_size
                if there.get(name) == size_bytes:
                    progress(size_bytes)
                elif size_bytes <= BLOCK_BYTES:  # one request each, as many at once
                    small.append((container.get_blob_client(name), path))
                else:
                    _send_large(container.get_blob_client(name), path, pool, progress)
            for size_bytes in pool.map(_send_small, small):
                progress(size_bytes)
    return f"azureml://datastores/{_DATASTORE}/paths/{prefix}"


def open_container(ml: Any) -> Any:
    """Return azure-storage's client of the project's default container."""
    from azure.storage.blob import ContainerClient, ExponentialRetry

    store = ml.datastores.get(_DATASTORE, include_secrets=True)
    secret = getattr(store.credentials, "sas_token", None)
    secret = secret or getattr(store.credentials, "account_key", None)
    return ContainerClient(
        f"{store.protocol}://{store.account_name}.blob.{store.endpoint}",
        store.container_name,
        # Without a secret, as where a policy forbids keys, who signed in is who may read and write.
        credential=secret or ml._credential,  # noqa: SLF001 - as the SDK for its own uploads
        # The default waits 15 s before it asks again.
        retry_policy=ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=6),
    )


def _send_large(blob: Any, path: Path, pool: ThreadPoolExecutor, progress: Progress) -> None:
    """Stage the blocks that are not there yet, then commit them all."""
    from azure.core.exceptions import ResourceNotFoundError
    from azure.storage.blob import BlobBlock

    try:
        _, staged = blob.get_block_list("all")
    except ResourceNotFoundError:
        staged = []
    sizes = {block.id: block.size for block in staged}
    blocks = list(_cut(path, blob))
    missing = [block for block in blocks if sizes.get(block.id) != block.size_bytes]
    progress(sum(b.size_bytes for b in blocks) - sum(b.size_bytes for b in missing))
    for size_bytes in pool.map(_stage, missing):
        progress(size_bytes)
    blob.commit_block_list([BlobBlock(block.id) for block in blocks])


def _send_small(one: tuple[Any, Path]) -> int:
    blob, path = one
    content = path.read_bytes()
    blob.upload_blob(content, overwrite=True)
    return len(content)


def _cut(path: Path, blob: Any) -> Iterator[_Block]:
    size_bytes = path.stat().st_size
    for number, start in enumerate(range(0, size_bytes, BLOCK_BYTES)):
        yield _Block(path, blob, number, min(BLOCK_BYTES, size_bytes - start))


def _stage(block: _Block) -> int:
    with block.path.open("rb") as file:
        file.seek(block.number * BLOCK_BYTES)
        content = file.read(block.size_bytes)
    block.blob.stage_block(block.id, content, length=len(content))
    return block.size_bytes
