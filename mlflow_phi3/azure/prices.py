"""Prices of today: Microsoft's public Retail Prices API, which needs no account.

Source: "Azure Retail Prices REST API overview" (2025-12).
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

import httpx

from mlflow_phi3.errors import AzureError

API = "https://prices.azure.com/api/retail/prices"
_NOT_PLAIN = ("spot", "low priority", "windows")
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class HourlyPrice:
    """What one machine costs.

    Args:
        usd_per_hour: List price, pay as you go, Linux.
        as_of: Day on which it was looked up, ISO.
        source: Where, and since when it holds.
    """

    usd_per_hour: float
    as_of: str
    source: str


def look_up_hourly(
    instance_type: str, region: str, today: dt.date, *, api: str = API
) -> HourlyPrice | None:
    """Ask for the list price of a machine type; None when the region does not have it.

    Args:
        instance_type: Such as ``Standard_NC24ads_A100_v4``.
        region: Such as ``eastus2``.
        today: Written beside the price.
        api: Address of the price list.

    Raises:
        AzureError: No answer, or not a price list.
    """
    wanted = (
        f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption' "
        f"and armRegionName eq '{region}' and armSkuName eq '{instance_type}'"
    )
    try:
        answer = httpx.get(api, params={"$filter": wanted}, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        items = answer.json()["Items"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as wrong:
        raise AzureError(
            "PHI3-A722",
            f"no price list: {type(wrong).__name__}",
            where=api,
            fix="check the network, or give the price by --hosting_usd_per_hour",
        ) from wrong
    plain = [item for item in items if _is_plain(item)]
    if not plain:
        return None
    # The newest price holds; an older one stays in the list beside it.
    item = max(plain, key=lambda one: str(one.get("effectiveStartDate") or ""))
    since = str(item.get("effectiveStartDate") or "")[:10]
    return HourlyPrice(
        float(item["retailPrice"]), today.isoformat(), f"{api}, in force since {since}"
    )


def _is_plain(item: dict[str, Any]) -> bool:
    text = f"{item.get('productName')} {item.get('skuName')} {item.get('meterName')}".lower()
    hourly = str(item.get("unitOfMeasure") or "").lower() == "1 hour"
    return hourly and not any(word in text for word in _NOT_PLAIN)
