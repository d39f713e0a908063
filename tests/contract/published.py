"""Request bodies against Microsoft's published resource types (Azure/bicep-types-az)."""

import importlib.util

KNOWN_DEVIATIONS = {
    "Microsoft.MachineLearningServices/workspaces/jobs 2024-10-01-preview: "
    "$.properties.fineTuningDetails.taskType='chatCompletion'": (
        "azure-ai-ml 1.35.2 sends FineTuningTaskType.CHAT_COMPLETION with a small first letter"
    ),
}
"""What the SDK by itself sends against the types, and why; none of our own bodies does."""


def find_faults(changes, folder):
    """Return what is wrong with the bodies of changes, less what the SDK is known for."""
    checker = _load(folder / "check_requests.py")
    found = []
    for change in changes:
        if "microsoft.machinelearningservices" not in change["path"].lower():
            continue
        types = checker.Types(_published(change["api"], folder))
        parts = change["path"].split("/providers/")[-1].split("/")
        kind = "/".join([parts[0], *parts[1::2]])
        resource = types.res[kind.lower()]
        faults = []
        types.check(types.deref(resource["body"]), change["body"], "$", faults)
        found += [
            f"{kind} {change['api']}: {fault}"
            for fault in faults
            if fault.split(" ")[0] not in {"$.id", "$.name", "$.type", "$.apiVersion"}
        ]
    return found


def _published(version, folder):
    """The version itself, or the next later one that lies there: types only grow."""
    known = sorted(path.stem for path in folder.glob("20*.json"))
    return next((one for one in known if one >= version), known[-1])


def _load(path):
    spec = importlib.util.spec_from_file_location("check_requests", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
