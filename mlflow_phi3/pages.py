"""The reports for people: HTML pages of the rooms' own, in which nothing of the data is markup."""

from functools import cache

import jinja2


@cache
def page_template(package: str, name: str) -> jinja2.Template:
    """A page; everything put into it is escaped, and what it lacks is an error.

    Args:
        package: The package in whose folder it lies.
        name: Its file, in that folder.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    return environment.get_template(name)


def _number(value: float) -> str:
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"
