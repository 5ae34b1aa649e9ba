"""What a mosaic's file holds besides its px: a colour profile, and the program and the settings that made it."""

from collections.abc import Mapping
from functools import cache
from xml.sax.saxutils import quoteattr

import pyvips

from hirez_mosaic.settings.record import SOFTWARE

__all__ = ["SOFTWARE", "srgb_profile", "xmp"]
_NAMESPACE = "urn:hirez-mosaic:settings"


@cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB."""
    return bytes(pyvips.Operation.call("profile_load", "srgb"))


def xmp(record: Mapping[str, str]) -> bytes:
    """An XMP packet, UTF-8, that names the program and, as properties, the settings in `record`.

    The same record gives the same bytes, because the packet has no date.
    """
    properties = "".join(f"\n   made:{name}={quoteattr(_printable(value))}" for name, value in sorted(record.items()))
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        f' xmlns:made="{_NAMESPACE}"\n   xmp:CreatorTool={quoteattr(SOFTWARE)}{properties}/>\n'
        " </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="r"?>'
    ).encode()


def _printable(text: str) -> str:
    """The text without characters that XML cannot hold, or UTF-8."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
