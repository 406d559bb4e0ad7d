"""Every plug-in by name, and those of a run.

What a plug-in is stands in `spcnet.plugins.base`. A new one is a module here and a line in `PLUGINS`.
"""

from collections.abc import Sequence
from typing import Any

from spcnet.config import RunConfig, own_settings
from spcnet.errors import UsageError, lookup
from spcnet.methods.base import Method
from spcnet.models.network import Segmentor
from spcnet.plugins.advstyle import AdvStyle
from spcnet.plugins.base import Plugin
from spcnet.plugins.content_extension import ContentExtension
from spcnet.plugins.dsu import DSU
from spcnet.plugins.feature_distance import FeatureDistance
from spcnet.plugins.fourier import Fourier
from spcnet.plugins.mixstyle import MixStyle
from spcnet.plugins.np_plus import NPPlus
from spcnet.plugins.pasta import Pasta
from spcnet.plugins.randconv import RandConv
from spcnet.plugins.shade import Shade
from spcnet.plugins.two_view import TwoView
from spcnet.plugins.wrapper import WithPlugins

PLUGINS: dict[str, type[Plugin]] = {
    plugin.name: plugin
    for plugin in (
        MixStyle,
        DSU,
        NPPlus,
        Shade,
        Pasta,
        Fourier,
        RandConv,
        AdvStyle,
        TwoView,
        FeatureDistance,
        ContentExtension,
    )
}
"""Plug-in by name."""


def make_plugins(config: RunConfig) -> tuple[Plugin, ...]:
    """The plug-ins of a run, in its order.

    Raises:
        UsageError: a name or setting is unknown, a value is not allowed, or a plug-in makes no sense in this run.
    """
    plugins = tuple(_make(item) for item in config.plugins)
    for plugin in plugins:
        plugin.check(config)
    if any(plugin.doubles for plugin in plugins) and not any(plugin.alters for plugin in plugins):
        doubler = next(plugin.name for plugin in plugins if plugin.doubles)
        raise UsageError(
            f"plugins names {doubler}, which trains on each image as it is and altered, and nothing alters it: add a plug-in "
            "that does, such as mixstyle, or two_view with photometric above 0"
        )
    tapping = [plugin.name for plugin in plugins if type(plugin).taps is not Plugin.taps]
    if config.training.compile and tapping:
        raise UsageError(
            f"training.compile is true, and the plug-in {tapping[0]} changes or reads features in ways that differ from step to "
            "step, which compiled code does not: leave one of them out"
        )
    return plugins


def _make(item: str | dict[str, Any]) -> Plugin:
    values = {"name": item} if isinstance(item, str) else dict(item)
    name = values.pop("name")
    kind = lookup(name, PLUGINS, "plug-in")
    return kind(own_settings(f"the plug-in {name}", f"plugins.{name}", kind.settings_type, values))


def with_plugins(method: Method, plugins: Sequence[Plugin], network: Segmentor, config: RunConfig) -> Method:
    """A method with plug-ins, whose taps are put into the network; the method itself where there are none.

    Raises:
        UsageError: a plug-in names a place that the backbone has not, or that is not reached.
    """
    if not plugins:
        return method
    wrapped = WithPlugins(method.name, method.summary, method.paper, method, tuple(plugins))
    wrapped.install(network, config)
    return wrapped
