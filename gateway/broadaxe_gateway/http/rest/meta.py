"""What clients ask before they have a token: version, and whether this is a self-hosted server (rest 11)."""

from typing import Any, cast

from fastapi import APIRouter, Request

router = APIRouter(prefix="/api/v1")


@router.get("/version")
async def version(request: Request) -> dict[str, str]:
    return {"version": cast(str, request.app.state.version)}


@router.get("/cloud/metadata")
async def cloud_metadata() -> dict[str, Any]:
    return {"errors": [{"description": "oss"}]}
