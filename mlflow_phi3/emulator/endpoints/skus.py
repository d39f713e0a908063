"""Machine types that endpoints may ask for, and how many cores there are to give."""

from typing import Final

CORES: Final = {
    "Standard_DS3_v2": 4,
    "Standard_DS4_v2": 8,
    "Standard_F4s_v2": 4,
    "Standard_F8s_v2": 8,
    "Standard_E4s_v3": 4,
    "Standard_NC6s_v3": 6,
    "Standard_NC24s_v3": 24,
    "Standard_NC24ads_A100_v4": 24,
    "Standard_NC48ads_A100_v4": 48,
    "Standard_NC40ads_H100_v5": 40,
}
"""Virtual cores by machine type; managed endpoints bill and limit by cores."""

QUOTA_CORES: Final = 100
"""Cores of a subscription in a region: the default of a new pay-as-you-go subscription."""
