"""Templates of HTML pages, in which every text is escaped."""

import jinja2


def environment(loader: jinja2.BaseLoader) -> jinja2.Environment:
    """Returns an environment for templates in which every text is escaped unless it is `Markup`.

    Args:
        loader: Where the templates lie.

    Returns:
        An environment in which a name that is not given is an error.
    """
    return jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
