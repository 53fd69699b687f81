"""The tenant of the API token, over REST. The method has an asynchronous form, with `aio_` before its name."""

from typing import TYPE_CHECKING

from broadaxe._rest import in_thread
from broadaxe.models import Tenant

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe


class TenantClient:
    """Reads the tenant."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def get(self) -> Tenant:
        """Name, slug and settings of the tenant that the token is of."""
        return self._client.rest.get(Tenant, f"/api/v1/tenants/{self._client.tenant_id}")

    aio_get = in_thread(get)
