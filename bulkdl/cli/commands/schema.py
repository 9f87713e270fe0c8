"""`bulkdl schema`: print the JSON Schema of the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.cli.output import write_out

if TYPE_CHECKING:
    from bulkdl.cli.dispatch import Invocation

__all__ = ["schema"]


def schema(invocation: Invocation) -> int:  # noqa: ARG001 - every command has this signature
    """Print the manifest's JSON Schema."""
    from bulkdl.manifest.schema import schema_text  # noqa: PLC0415

    write_out(schema_text().rstrip("\n") + "\n")
    return 0
