"""How a street may look: palettes, light, weather and finish of each style, all as data."""

from dataclasses import dataclass, replace

Palette = dict[str, tuple[str, ...]]

REAL: Palette = {
    "sky": ("000000",),
    "asphalt": ("5b5c5e", "66665f", "747474", "4c4e52", "7f7d78", "696a6e", "555350"),
    "patch": ("4a4b4e", "6e6d69", "7d7b77", "57585a"),
    "track": ("525355", "5d5d57", "6b6b6b", "45474b", "767470", "606165", "4d4b48"),
    "cobble": ("6f6a64", "7b7771", "5f5c58", "85796e"),
    "marking": ("d8d8d2", "c9c8c0", "e2e2de", "b9b8b2"),
    "marking_yellow": ("d2ac3c",),
    "bike_lane": ("8d4a40", "9a5a4c", "4f7058"),
    "manhole": ("47484a", "55534f"),
    "rail": ("8f8d8a", "6d6c6b"),
    "pavement": ("8d8983", "9b958c", "a39e97", "7d7b79", "96887c", "88796f", "b0a99f"),
    "kerb": ("a9a7a2", "b8b4ac", "8f8d89", "c4c0b6"),
    "gutter": ("4b4b4b", "56544f"),
    "grass": ("5d6f38", "6b7a42", "4e6434", "7d7f4c", "8a8552", "566b3a"),
    "dirt": ("96826a", "a58f73", "8a7760", "b39d80", "7d705e"),
    "plaster": ("d9cdb8", "c8b79c", "e0d8c8", "cfc6b4", "b89f80", "d2b48a", "c9a27e", "e6dfd4", "a9a59c", "c6a08a", "b5745c", "d8c9a2", "9fa69a", "bdb5a8", "e9e6e0", "8f8a82", "cbb8a8", "a0826a"),
    "brick": ("8a4a38", "9c5a44", "7a4436", "a8705a", "6e4a3e", "b08468", "84574a", "9a7a64"),
    "stone": ("a39a8a", "8d867a", "b5ab98", "77726a", "c2b7a2", "9a8c78"),
    "concrete": ("9a9893", "868580", "b0ada6", "767672", "a39c90", "c0bdb6"),
    "cladding": ("a9adb0", "7f868c", "c6c7c4", "5d6a74", "8d7f6c", "b8bcae", "486076", "8a5e4e", "d6d5d0"),
    "curtain": ("6c8492", "566c78", "8699a0", "495a66", "7c8c84"),
    "window": ("2c3338", "3b444a", "505c64", "23282c", "74828a", "8fa0aa", "46484a", "5c5a54", "b4bcc0", "38424a", "9a968c"),
    "frame": ("e2e0da", "cfccc4", "b6b2a8", "5d4b3c", "4a4a4a", "efeeea", "7c6a58"),
    "door": ("4c3a2e", "33403a", "5c2f2a", "2e3440", "6d5a46", "3a3a3a"),
    "shop": ("4d4a46", "6b655c", "3a3c40", "857a68", "5a5550", "79808a"),
    "shop_sign": ("8c2f2c", "2f4f86", "2f6a48", "c8a83c", "d8d4cc", "3a3a3c", "b85a2c", "5c3a6c", "c44a44", "3c8a9a", "222428"),
    "awning": ("8a3a34", "3f6a4c", "c8bca0", "445a86", "b08a4a", "7c7c78", "d8d4c8"),
    "trim": ("d6cfc0", "b9b1a2", "9a938a", "e4dfd4", "8a7a6a", "c4bcae"),
    "balcony": ("8c8a86", "6a6c6e", "b2aea6"),
    "roof": ("8a4c3a", "6e4438", "5a5656", "9a6048", "4a4a4e", "7c5c4c", "66605a"),
    "far_building": ("8d8f92", "a09c96", "7c8288", "b0aca4", "968878"),
    "wall": ("8a8274", "a09684", "746e64", "b4a994", "958a80"),
    "wall_brick": ("84503e", "965e4a", "704638", "a4725c"),
    "wall_concrete": ("a3a09a", "8c8a86", "b8b4aa", "c9c2b2", "d8d2c4", "98a0a0"),
    "cap": ("b0aca2", "98948c", "c4c0b8"),
    "fence_metal": ("4a4e4c", "2f3a34", "8a8e90", "3a3c40", "5c7060", "6a6c6e"),
    "fence_wood": ("7c6248", "94785a", "5c4a38", "a8906c", "8a8478", "4a5a48"),
    "guardrail": ("a6a9aa", "8f9294", "b8baba"),
    "foliage": ("4f6630", "3f5a2c", "5f7238", "6c7a3c", "48603a", "345028", "76803e", "5a6a3e", "848246", "8c7a40"),
    "far_foliage": ("4c5f44", "5a6a50", "46583c", "66705a"),
    "bark": ("5a4c40", "6a5c4e", "48403a", "766a5e"),
    "pole": ("8a8c8c", "6c6e6e", "a4a6a4", "4c5250", "38403c", "9a9894", "b4b4b0"),
    "signal": ("2c2e2c", "34382e", "222424", "4a4c30"),
    "lamp_red": ("f03a28",),
    "lamp_amber": ("f4b02c",),
    "lamp_green": ("38e08c",),
    "lamp_off": ("1e1e1c",),
    "street_lamp": ("c4c4bc",),
    "sign_white": ("e6e6e2",),
    "sign_red": ("b82a28",),
    "sign_blue": ("2450a0",),
    "sign_yellow": ("e4b428",),
    "sign_green": ("1f6a4a",),
    "sign_ink": ("222222",),
    "sign_back": ("8a8c8c",),
    "bin": ("3c4a40", "5a5c5c", "48605a", "7a3c34", "8a8a86", "c8c4bc", "2c3c5a", "a47c34"),
    "paint": ("c8cacc", "a6a9ad", "7a7e84", "4a4d52", "2a2c30", "1c1d20", "e6e6e4", "8c2a26", "6a1f22", "2a3f6c", "22304a", "5a6a78", "b0aca0", "3c5a4c", "b8a888", "8c8a84", "d8d9da", "34363a", "c89a2c", "3a6a9a", "dcdcd8", "a84a2c"),
    "glass": ("2c3338", "3a444a", "4c5860", "24282c", "5e6e78", "74848e", "38424a"),
    "tyre": ("1c1c1c", "242424"),
    "hub": ("9a9c9e", "77797b", "4a4b4c", "b4b6b8"),
    "trimming": ("26282a", "323436", "1e1f20"),
    "headlamp": ("d4d8da",),
    "taillamp": ("a02420",),
    "plate": ("e4e2d8", "e6c84a"),
    "cargo": ("e2e2de", "c8c8c4", "a4a6a6", "35507c", "8a2e2a", "d8c8a0", "4a6a50", "b87c34", "5c4a3c", "dcdad2", "7c3a30"),
    "bus_paint": ("d8d6cc", "b82c2a", "e4c23c", "2c5a94", "e6e6e4", "3c7a54", "c8682c", "8fa2b0", "dcd4b8", "6a2c34"),
    "tram_paint": ("d8d4c4", "c43230", "e6e4dc", "3a6a9c", "e0c440", "4c7c5c", "ece8dc"),
    "livery": ("b83030", "2f5a9a", "e2e0d8", "3c7c54", "d8a02c", "44464a", "c8682c", "7a2c44"),
    "display": ("2c2a1e",),
    "bonnet": ("26282a", "3a3c3e", "6a6c70", "1c2028", "a2a4a6"),
    "skin": ("d8a888", "c48f70", "a8734f", "8a5a3c", "e4bca0", "6a4530"),
    "hair": ("2c2420", "1c1816", "5c4430", "8a6a44", "7c7874", "3c2c22", "b09468"),
    "top": ("2c3038", "1e2024", "44506a", "7a2c2c", "d8d6d0", "5c6058", "8a8478", "b08a58", "34483c", "c4c8cc", "a83c34", "3c6a94", "6a4a6c", "d8b43c", "e8e6e2", "4a4038", "c87c8a", "282c44", "e07a2c"),
    "bottom": ("2c3444", "1e2026", "3c4658", "4a4640", "6a6458", "242424", "5a6a80", "8c8270", "38302c"),
    "shoe": ("2a2624", "3c342e", "d0cec8", "1c1c1c"),
    "bag": ("3a2c26", "20242a", "7a3a34", "2c4a6a", "8a7a5c", "c8c0b0", "4c5c3c"),
    "helmet": ("e4e4e0", "222426", "b83430", "2c5a9a", "d8b83c", "44484c"),
    "cycle": ("2a2c2e", "a43a34", "3a5a84", "8a8c8e", "3c6a4a", "d8d8d4", "1e1e20"),
    "motor": ("22242a", "a42e2a", "2c4a84", "3c3e42", "8a8c90", "c8a030", "5c1f24", "d4d4d0"),
}  # fmt: skip
"""Albedo of every material in neutral daylight; a part picks one of the colours."""

TOY: Palette = {
    "asphalt": ("7c8088", "8a8d94", "6d727c"),
    "patch": ("848890", "747882"),
    "track": ("767a82", "848790", "686d77"),
    "cobble": ("a89a8c", "96908c"),
    "marking": ("fdfdf8",),
    "marking_yellow": ("ffd21f",),
    "bike_lane": ("e0664e", "4fb06e"),
    "manhole": ("5c6068",),
    "rail": ("b8c0c8",),
    "pavement": ("d2ccc0", "c6c8d0", "dccfb8", "cfc0c0"),
    "kerb": ("f0ece4", "e8e4e0"),
    "gutter": ("646870",),
    "grass": ("7ed046", "6cc24a", "92d850"),
    "dirt": ("e0b878", "d4a868"),
    "plaster": ("ffd9a0", "ff9e80", "ffe680", "b0e0f0", "ffb6c8", "c8e890", "f6f0e0", "d0b8f0", "ff7f6a", "80c8e8"),
    "brick": ("e0583c", "d87048", "c84838"),
    "stone": ("d8ccb0", "c8c0b8"),
    "concrete": ("c8d0d8", "e0dcd0", "b8c8d0"),
    "cladding": ("5ab0e0", "f0f0f0", "f0a040", "60c0a0"),
    "curtain": ("48a8e8", "60c0f0", "3890d0"),
    "window": ("60b8f0", "78c8f8", "4aa0e0", "90d8ff"),
    "frame": ("ffffff", "f8f4e8", "b06a3c"),
    "door": ("a05030", "307850", "c03838", "3060a8"),
    "shop": ("88d0f0", "a0e0f8"),
    "shop_sign": ("ff4040", "3070f0", "20b060", "ffc820", "ff8020", "a040d0"),
    "awning": ("ff5050", "40c080", "fff0d0", "5090ff", "ffb030"),
    "trim": ("fff8e8", "f0e0c8", "ffffff"),
    "balcony": ("e8e8f0", "d0d8e0"),
    "roof": ("e04830", "c83828", "5868a0", "d87038", "8050a0"),
    "far_building": ("b8c8e0", "d0c8d8", "c8d8d8"),
    "wall": ("e0c898", "d0c0a8"),
    "wall_brick": ("e07050", "d06048"),
    "wall_concrete": ("d8dce0", "e8e0d0"),
    "cap": ("f4f0e8",),
    "fence_metal": ("3c6cc0", "40a060", "707880"),
    "fence_wood": ("c88848", "e0a860", "ffffff"),
    "guardrail": ("d0d8e0",),
    "foliage": ("3cb044", "58c048", "2c9c50", "78c83c", "48a838"),
    "far_foliage": ("6cb878", "80c080"),
    "bark": ("9c6438", "8a5430"),
    "pole": ("98a0a8", "606870", "b8c0c8", "40a0a0"),
    "signal": ("303438", "f0c020"),
    "lamp_red": ("ff3020",),
    "lamp_amber": ("ffc020",),
    "lamp_green": ("30f080",),
    "lamp_off": ("484c50",),
    "street_lamp": ("fff4b0",),
    "sign_white": ("ffffff",),
    "sign_red": ("f02020",),
    "sign_blue": ("1060f0",),
    "sign_yellow": ("ffd000",),
    "sign_green": ("00a050",),
    "sign_ink": ("202020",),
    "sign_back": ("a0a8b0",),
    "bin": ("309050", "f08030", "4070c0", "c83848"),
    "paint": ("f02828", "2060e8", "ffd010", "20b058", "ff7818", "f4f4f4", "9030c8", "10b8d0", "f060a0", "303840"),
    "glass": ("80c8f0", "6ab8e8", "98d8f8"),
    "tyre": ("282c30",),
    "hub": ("e0e4e8", "c0c8d0"),
    "trimming": ("404850",),
    "headlamp": ("fff8c0",),
    "taillamp": ("ff2020",),
    "plate": ("ffffff", "ffe040"),
    "cargo": ("f8f8f0", "ff9020", "3090e0", "f04040", "60c050"),
    "bus_paint": ("ff3030", "ffd020", "2080f0", "20c080", "ff8820"),
    "tram_paint": ("ffe040", "e83838", "f8f8f0", "30a0d8"),
    "livery": ("ffffff", "2060d0", "f03030", "ffc020"),
    "display": ("302c10",),
    "bonnet": ("d03030", "3060c0", "f0b020"),
    "skin": ("ffd0a8", "f0b888", "c08050", "8a5838"),
    "hair": ("402818", "201818", "c08030", "f0d060"),
    "top": ("f03838", "3070f0", "ffd020", "30c060", "ff8030", "a048d8", "f8f8f8", "f070b0", "20c0c0"),
    "bottom": ("304890", "404850", "805030", "2c6878", "603080"),
    "shoe": ("803818", "303030", "ffffff"),
    "bag": ("e04040", "4080e0", "f0b030"),
    "helmet": ("ff3030", "ffd020", "3080ff", "f8f8f8"),
    "cycle": ("e83030", "2070e8", "20a858", "ff9020"),
    "motor": ("e82828", "2858d8", "20a050", "f0a010"),
}  # fmt: skip
"""Plastic colours."""

GAME: Palette = {
    "asphalt": ("6a6660", "77726a", "5a5854", "827c72"),
    "track": ("605c57", "6c6860", "504e4b", "77716a"),
    "pavement": ("a89c88", "b4a894", "988e80", "a0866e"),
    "grass": ("6a8032", "7c8c3a", "587430", "8e8e48"),
    "foliage": ("4a6c34", "3c5c30", "587438", "667c3a", "406238", "748040", "7c7a46", "4c6848"),
    "plaster": ("e4d0a8", "d4b07c", "ecdcb8", "c88f5c", "d8a878", "f0e6d0", "c27a58", "b8b09c", "dcbc84", "a8927a", "d4c8b8"),
    "brick": ("9a4a30", "ae5c3c", "88422e", "b8704e", "7a4a38"),
    "roof": ("a05034", "84422e", "6a5a52", "b06a44", "545054"),
    "paint": ("d4d6d8", "a8b0b8", "6a7078", "26282c", "ececea", "b02420", "8a1c1c", "204a9c", "1c3460", "d8a018", "2c7a4c", "c45a1c", "e0d8c4", "48505a", "5a86b4", "3c3e42"),
    "sign_blue": ("1c54b8",),
    "sign_red": ("cc2422",),
}  # fmt: skip
"""What a computer game paints warmer and cleaner than the world is."""

NIGHT: Palette = {
    "window": ("1c2024", "22282e", "2c3238", "181a1e", "343c42", "262a2e"),
    "street_lamp": ("fff0c8",),
    "lamp_off": ("101010",),
}
DUSK: Palette = {
    "window": ("2c2c34", "3a3a44", "54505a", "7c6c68", "c89a74", "23242c", "a88470"),
    "foliage": ("4a5a30", "3c4e2c", "5c6438", "6c6a3a", "445236", "766a38"),
    "grass": ("64693a", "726f42", "565f36", "80744a"),
}
RAIN: Palette = {
    "asphalt": ("44474b", "4e5052", "3a3d42", "575858"),
    "patch": ("383b3f", "505254", "46484c"),
    "track": ("3c3f43", "464849", "33363b", "4e4f50"),
    "pavement": ("6c6b68", "787470", "5e5e5e", "726860"),
    "cobble": ("55524e", "605d59", "4a4846"),
    "top": ("2c3038", "1e2024", "3a4458", "6a2c2c", "5c6058", "d8c43c", "34483c", "3c6a94", "26282c", "c43c34"),
}
SNOW: Palette = {
    "bike_lane": ("b0a09c", "a4a09a", "9c9a96"),
    "grass": ("dfe4ea", "d2d8e0", "e8ecf0"),
    "dirt": ("cfd2d6", "dadde2"),
    "pavement": ("c6cad0", "d4d8de", "b4b8be", "dde1e6"),
    "kerb": ("d8dce2", "c8ccd2"),
    "gutter": ("b4b8be", "989ca2"),
    "asphalt": ("96999e", "a4a7ac", "b4b8be", "888b90"),
    "patch": ("a0a3a8", "b0b4ba", "8c8f94"),
    "track": ("62656a", "6e7074", "585a5e", "7a7c80"),
    "cobble": ("a2a4a8", "b4b6ba"),
    "marking": ("c4c8cc", "b4b8bc", "d0d4d8"),
    "roof": ("dfe4ea", "e8ecf0"),
    "cap": ("e4e8ee",),
    "foliage": ("6a7468", "5c685c", "7c847a", "54604e", "868a84"),
    "far_foliage": ("8c9698", "98a0a2"),
    "top": ("24282e", "1e2024", "34405a", "6a2c2c", "4a4e48", "2c3c34", "8a3434", "2c4a6c", "c4c0b8"),
}


@dataclass(frozen=True)
class Style:
    """Everything a style decides. Ranges are (low, high) and drawn again for each scene."""

    about: str
    palettes: tuple[Palette, ...] = (REAL,)
    """Later ones override earlier ones."""
    skies: tuple[tuple[str, str], ...] = (("6f97c4", "cdd9e2"),)
    """Colours at the zenith and at the horizon."""
    clouds: tuple[float, float] = (0.1, 0.8)
    """Share of the sky that clouds cover."""
    cloud_colours: tuple[str, str] = ("f4f4f2", "b4bac2")
    """Lit and shaded side of clouds."""
    sun_colour: str = "fff1d8"
    sun: tuple[float, float] = (0.45, 0.7)
    """Strength of direct light."""
    elevation: tuple[float, float] = (25, 60)
    """Height of the sun in degrees."""
    ambient_colour: str = "dfe8f4"
    ambient: tuple[float, float] = (0.5, 0.68)
    """Strength of the light from the sky."""
    texture: float = 1.0
    """Factor on every material's texture."""
    haze: tuple[float, float] = (500.0, 1500.0)
    """Distance in metres at which a thing has lost 63 % of its contrast."""
    haze_colour: str | None = None
    """Colour of the air; that of the horizon if not given."""
    lit_windows: tuple[float, float] = (0.0, 0.0)
    """Share of windows with light behind them."""
    lamps: float = 0.0
    """Strength of the glow around lamps."""
    beams: float = 0.0
    """Strength of the camera car's head lamps and of street lamps on what they shine on."""
    wet: float = 0.0
    """How much wet ground mirrors."""
    streaks: tuple[float, float] = (0.0, 0.0)
    """Rain streaks per thousand pixels."""
    snow: float = 0.0
    """How thick snow lies on what faces up."""
    flakes: tuple[float, float] = (0.0, 0.0)
    """Snow flakes per thousand pixels."""
    outline: float = 0.0
    """Darkness of drawn outlines."""
    steps: int = 0
    """Number of flat tones of foliage; 0 leaves it smooth."""
    exposure: tuple[float, float] = (0.9, 1.1)
    contrast: tuple[float, float] = (0.95, 1.1)
    saturation: tuple[float, float] = (0.9, 1.05)
    cast: tuple[str, ...] = ("ffffff",)
    """Colour casts of the camera."""
    grain: float = 0.012
    """Standard deviation of the sensor's noise (share of white)."""
    vignette: tuple[float, float] = (0.0, 0.2)


_DAY = Style("realistic daylight")

LOOKS: dict[str, Style] = {
    "game": replace(
        _DAY, about="computer game: warm sun, crisp shadows, textured surfaces, rich colours", palettes=(REAL, GAME),
        skies=(("4f8fd4", "c4d8e8"), ("6ba2dc", "e6dfcc"), ("3f7cc0", "b4cede"), ("8fb0d0", "e8e4d8"), ("aab8c4", "dde0e0")),
        clouds=(0.05, 0.75), sun_colour="ffe6ba", sun=(0.35, 0.75), ambient_colour="d4def0", ambient=(0.45, 0.65),
        haze=(300, 1200), contrast=(1.0, 1.2), saturation=(0.95, 1.2), exposure=(0.85, 1.3),
        cast=("ffffff", "fff6e8", "eef4ff", "fffaf0", "f0faf2", "ffffff"), grain=0.012,
    ),
    "toy": replace(
        _DAY, about="toy town: flat bright plastic colours with drawn outlines", palettes=(REAL, TOY),
        skies=(("58b8f8", "b8e8ff"), ("70c8ff", "e0f4ff"), ("4aa8f0", "ffe8c0")), clouds=(0.2, 0.5),
        cloud_colours=("ffffff", "e8f4ff"), sun_colour="ffffff", sun=(0.3, 0.45), ambient_colour="ffffff", ambient=(0.66, 0.74),
        texture=0.12, haze=(900, 3000), outline=0.6, steps=4, exposure=(0.98, 1.06), contrast=(1.0, 1.08),
        saturation=(1.0, 1.2), grain=0.0, vignette=(0.0, 0.05),
    ),
    "overcast": replace(
        _DAY, about="grey day: flat light from a closed sky, hardly a shadow",
        skies=(("b4b8bc", "d8dada"), ("9aa0a6", "c8cccc"), ("c8cacc", "e6e6e4")), clouds=(0.9, 1.0),
        cloud_colours=("d8dadc", "a0a5aa"), sun=(0.0, 0.08), ambient_colour="f0f4f8", ambient=(0.75, 0.95),
        haze=(250, 800), contrast=(0.85, 1.05), saturation=(0.6, 0.85), cast=("ffffff", "f0fff4", "f4f8ff"), grain=0.016,
    ),
    "dusk": replace(
        _DAY, about="sunset: low orange sun, long shadows, a glowing horizon", palettes=(REAL, DUSK),
        skies=(("3c4a78", "f09a58"), ("50557c", "f4b878"), ("2c3864", "d8704c"), ("6a6a8c", "f8c88c")), clouds=(0.2, 0.7),
        cloud_colours=("f4a874", "6a5a74"), sun_colour="ff9a4c", sun=(0.4, 0.7), elevation=(4, 13), ambient_colour="a8a0c4",
        ambient=(0.36, 0.52), haze=(120, 500), lit_windows=(0.03, 0.2), lamps=0.45, beams=0.12, exposure=(0.85, 1.15),
        contrast=(1.0, 1.15), saturation=(0.85, 1.1), cast=("ffeede", "ffe4d0", "fff0f0"), grain=0.018, vignette=(0.1, 0.35),
    ),
    "night": replace(
        _DAY, about="night: dark sky, lit windows, head, tail and street lamps", palettes=(REAL, NIGHT),
        skies=(("06080f", "1c1c26"), ("0a0d18", "2c2622"), ("04060a", "141a28")), clouds=(0.0, 0.6),
        cloud_colours=("2c2a2c", "12141c"), sun_colour="8090c0", sun=(0.01, 0.05), ambient_colour="8a9cc8", ambient=(0.10, 0.18),
        haze=(250, 800), lit_windows=(0.15, 0.5), lamps=0.9, beams=0.55, exposure=(0.75, 1.05), contrast=(1.0, 1.15),
        saturation=(0.75, 1.0), cast=("ffeed8", "ffe4c4", "f0f4ff"), grain=0.028, vignette=(0.15, 0.4),
    ),
    "fog": replace(
        _DAY, about="fog that thickens with distance", skies=(("c8ccce", "d0d3d4"), ("b4b8ba", "bec2c3"), ("d8d8d6", "dededc")),
        clouds=(0.0, 0.1), cloud_colours=("d8dadc", "c8ccd0"), sun=(0.0, 0.05), ambient_colour="f0f4f4", ambient=(0.75, 0.9),
        haze=(18, 75), lit_windows=(0.0, 0.1), lamps=0.35, contrast=(0.8, 0.95), saturation=(0.5, 0.8), grain=0.014,
    ),
    "rain": replace(
        _DAY, about="rain: dark sky, wet mirroring road, streaks, lamps on", palettes=(REAL, RAIN),
        skies=(("767c84", "a4a9ac"), ("5c636c", "90969a"), ("8c9196", "b4b7b8")), clouds=(0.9, 1.0),
        cloud_colours=("9a9fa4", "666c74"), sun=(0.0, 0.03), ambient_colour="e4ecf4", ambient=(0.5, 0.72), haze=(70, 260),
        lit_windows=(0.05, 0.3), lamps=0.6, beams=0.15, wet=1.0, streaks=(3.0, 9.0), contrast=(0.8, 1.0),
        saturation=(0.5, 0.8), cast=("f4f8ff", "ffffff", "f0faf8"), grain=0.018, vignette=(0.1, 0.3),
    ),
    "snow": replace(
        _DAY, about="snowfall: white ground and roofs, pale air, flakes", palettes=(REAL, SNOW),
        skies=(("c4c9d0", "d8dce0"), ("b0b6be", "c8ccd2"), ("d2d6da", "e2e5e8")), clouds=(0.9, 1.0),
        cloud_colours=("d8dce0", "b8bec6"), sun=(0.0, 0.06), ambient_colour="eef3fa", ambient=(0.72, 0.92), haze=(70, 260),
        lit_windows=(0.02, 0.2), lamps=0.3, snow=0.85, flakes=(3.0, 14.0), contrast=(0.85, 1.0), saturation=(0.5, 0.75), grain=0.014,
    ),
}  # fmt: skip
"""Every style by name."""
