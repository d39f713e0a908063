"""What hub and project of Azure AI Foundry shall be like, as a person tells it."""

import hashlib
import re
from dataclasses import dataclass, replace

from mlflow_phi3.azure.target import Target
from mlflow_phi3.errors import UsageError

SKIP, CREATE = "skip", "create"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,32}")
_GROUP = re.compile(r"[\w().-]{0,89}[\w()-]")
_ACCOUNT_ID = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.CognitiveServices"
    r"/accounts/[A-Za-z0-9][A-Za-z0-9._-]+",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"https://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:\d+)?/?")


@dataclass(frozen=True, slots=True)
class WantedInfra:
    """What shall be there.

    Args:
        target: The project.
        hub: Name of its hub; empty takes the project's own, see :meth:`Builder.choose_hub`.
        location: Azure region of all of it; empty takes that of what is there.
        ai_services: ``create``, ``skip`` or the resource id of an account.
        search: ``skip`` or the address of an AI Search service.
        hub_group: Resource group of the hub; empty where it is the project's.
    """

    target: Target
    hub: str
    location: str
    ai_services: str = CREATE
    search: str = SKIP
    hub_group: str = ""

    @property
    def hub_target(self) -> Target:
        """The hub, which is a workspace like its projects."""
        return replace(self.target, group=self.hub_group or self.target.group, project=self.hub)

    @property
    def account_name(self) -> str:
        """Name of an AI Services account, unique in the world as it becomes a host name."""
        place = f"{self.target.subscription}/{self.hub_target.group}/{self.hub}".lower()
        host = self.hub.replace("_", "-")
        return f"{host}-ai-{hashlib.sha256(place.encode()).hexdigest()[:6]}".lower()

    @property
    def account_path(self) -> str:
        """Resource id of the AI Services account."""
        if self.ai_services not in {CREATE, SKIP}:
            return self.ai_services
        accounts = f"{self.hub_target.group_path}/providers/Microsoft.CognitiveServices/accounts"
        return f"{accounts}/{self.account_name}"


def check_wanted(wanted: WantedInfra) -> None:
    """Refuse what cannot be meant, before Azure is asked anything.

    Raises:
        UsageError: A name that Azure refuses, or a name where an id or an address belongs.
    """
    for name, what in ((wanted.hub, "--hub"), (wanted.target.project, "--project")):
        if name and not _NAME.fullmatch(name):
            raise UsageError(
                "PHI3-U761",
                f"{name!r} is not a name of 3 to 33 letters, digits, dashes and underscores",
                where=what,
                fix="choose another",
            )
    if not _GROUP.fullmatch(wanted.target.group):
        raise UsageError(
            "PHI3-U789",
            f"{wanted.target.group!r} is not a name of 1 to 90 letters, digits, dots, dashes, "
            "underscores and parentheses that does not end with a dot",
            where="--group",
            fix="choose another",
        )
    given = wanted.ai_services
    if given not in {CREATE, SKIP} and not _ACCOUNT_ID.fullmatch(given):
        raise UsageError(
            "PHI3-U786",
            f"{given!r} is not the resource id of an AI Services account (/subscriptions/<id>"
            "/resourceGroups/<group>/providers/Microsoft.CognitiveServices/accounts/<name>)",
            where="--ai-services",
            fix="az cognitiveservices account list --query '[].id' -o tsv lists yours; "
            "or --ai-services create or skip",
        )
    if wanted.search != SKIP and not _ADDRESS.fullmatch(wanted.search):
        raise UsageError(
            "PHI3-U787",
            f"{wanted.search!r} is not the address of an AI Search service",
            where="--search",
            fix="give it as https://<name>.search.windows.net, or --search skip",
        )
