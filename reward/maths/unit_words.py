"""Whether the words after a number only say what is counted or measured.

In: the words of "17 miles per hour", without the number. Out: a truth value. Must not know: numbers, trees, the size of
a unit (`units`).

A unit consists of measures ("km", "square feet", "dollars per hour"), or is a short phrase whose noun is a plural
("right triangles", "pieces of cake"). It contains no digits, brackets or commas, and no word that could change what the
number says: no negation, doubt, alternative, comparison, verb or number word ("is wrong", "not", "or six", "at most",
"dozen"). A gold answer is trusted further: any words are accepted, unless one of them changes the number.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PREFIXES = ("", *"kmcdnpuµμMGTh")
_SYMBOLS = _words("m g s L l W J N Hz V A Pa eV cal mol F T B b Wh pc bar C M Ω Bq Sv H")
_ABBREVIATIONS = _words("""
    K mi ft in ins yd yds lb lbs oz pt pts qt gal tsp tbsp hr hrs h min mins sec secs yr yrs wk wks mo mph kph kmph
    kmh rpm fps bpm psi atm torr mmHg dB ppm ppb deg rad rads sr ly AU au erg ergs dyn esu cc sq cu amu u Da ha Å lm
    lx cd Wb USD EUR GBP CAD AUD INR JPY CNY RMB Rs usd eur t kt KB MB GB TB Kb Mb cwt gr dr ton nmi cfs gpm mpg mCi
    Ci Gy statC cgs px
""")
_MEASURES = _words("""
    meter metre centimeter centimetre millimeter millimetre kilometer kilometre decimeter decimetre micrometer micron
    nanometer mile inch foot yard furlong league fathom parsec angstrom lightyear light-year gram gramme kilogram
    milligram pound ounce ton tonne stone liter litre milliliter millilitre kiloliter gallon quart pint cup teaspoon
    tablespoon acre hectare second minute hour day week fortnight month year decade century millisecond microsecond
    nanosecond watt kilowatt megawatt kilowatt-hour joule kilojoule newton volt ampere amp ohm farad henry tesla weber
    gauss kelvin pascal hertz kilohertz megahertz mole calorie kilocalorie radian steradian gradian degree lumen lux
    candela becquerel atmosphere erg dyne knot horsepower dollar cent euro yen yuan won peso rupee franc rouble ruble
    pence penny nickel dime quarter krona krone shekel dirham baht bit byte kilobyte megabyte gigabyte terabyte unit
    percent pound-sterling celsius fahrenheit centigrade sterling
""")
_QUALIFIERS = _words("""
    square cubic sq cu per squared cubed fluid fl nautical light metric us american canadian
""")
_PLURALS = _words("""
    people men women children feet teeth mice geese oxen fish sheep deer dice pence money change inches centuries
    vertices indices matrices axes bases radii loci foci criteria data cattle police salmon trout shrimp hz series
    species buses classes glasses dresses passes crosses losses bosses masses grasses compasses bonuses viruses gas
    genera workmen policemen firemen salesmen fishermen freshmen sportsmen snowmen grandchildren fruit bread rice
    sugar flour milk water juice candy cake pizza chocolate homework paint gasoline food
""")  # that do not end in s
_BEHIND = _words("""
    each apiece left remaining total altogether overall long tall wide high deep old away ago later early late thick
    way daily weekly monthly annually
""")  # "5 years old", "7 apples left"
_JOINTS = _words("of per in a an from")  # "pieces of cake", "hours a day"
_REFUSED_EVEN_OF_GOLDS = _words("""
    not no nor non never neither without except excluding nope or and but either if unless otherwise else versus vs
    mod modulo choose remainder to plus minus times over divided multiplied percent hundred thousand million billion
    trillion dozen factorial squared cubed base pi maybe perhaps about approximately am pm ou oder und et nicht pas
    less more fewer least most than
""")
_REFUSED = _REFUSED_EVEN_OF_GOLDS | _words("""
    the this that these those it its he she they i we you my your our their his her me us them something anything
    nothing everything none nobody all both any every such same other others another is isn't isnt are aren't was
    wasn't were be been being do does did don't doesn't didn't has have had can can't cannot cant could may might must
    shall should will won't would wouldn't let lets seems seem looks appears becomes equals equal equalling makes
    gives means works fails fits holds remains stays got get gets goes exceeds say says said think thinks guess
    guesses believe believes assume assumes suppose supposes know knows hope hopes feel feels doubt doubts wonder
    wonders check checks verify verifies sorry comes loses wins needs wants differs errs lies misses equates yields
    implies varies depends changes turns then so because since as while though although yet whereas whether when where
    which who whom whose what why how for with instead rather alternatively alternative alternatives also too besides
    unlike like double triple twice thrice half halves third thirds fourth fourths fifth fifths sixth sixths seventh
    sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths millionth millionths
    twelfths one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety zero tens ones twos threes fours
    fives sixes sevens eights nines zeros zeroes hundreds thousands millions billions trillions dozens scores gross
    couple percents probably possibly likely unlikely approx around roughly nearly almost circa exactly only just
    precisely sure unsure certain uncertain plausible presumably hopefully allegedly supposedly plus-minus greater
    larger smaller bigger lower higher above below under up down off out between within beyond before after again
    until till through by at into onto upon against wrong incorrect false correct true invalid undefined impossible
    unknown bad good ok okay yes yeah yep nah always sometimes often wait oops hmm actually error errors mistake
    mistakes wrongs typos nonsense guesswork estimates estimate approximation approximations minuses pluses bounds
    worse better sin cos tan cot sec csc log ln lg exp abs max gcd lcm arcs sqrt oui ja nein si pero sino peut-être
    vielleicht
""")
_CHINESE = re.compile(r"[\u4e00-\u9fff]{1,8}")
_CHINESE_REFUSED = re.compile("[或和与不非错无没吗约百千万亿半]")
_TOKEN = re.compile(
    r"[^\W\d_]+(?:['’-][^\W\d_]+)*\.?|(?P<power>\^\s*(?:\{\s*-?\d\s*\}|-?\d)|[²³])|(?P<by>\\cdot|[/·*])|\S"
)
_SPACES = re.compile(r"\\[,;:! ]|~|\s+")
_MAX_CHARS = 60
_MAX_WORDS = 7

_KNOWN = frozenset(
    {prefix + symbol for prefix in _PREFIXES for symbol in _SYMBOLS}
    | _ABBREVIATIONS
    | _MEASURES
    | {name + "s" for name in _MEASURES}
    | {"inches", "feet", "centuries"}
)


def is_unit(text: str, one: bool = False, trusted: bool = False) -> bool:
    """Whether the words are a unit. one: the number is 1, so "apple" is accepted. trusted: they are in a gold answer.

    Examples: " miles per hour", "cm^2", "sq. units", "different ways" are; " is wrong", "(or 6)", "dozen" are not.
    """
    text = _SPACES.sub(" ", text.replace("(s)", "s")).strip()
    dots = len(text) - len(text := text.rstrip("."))
    if text[:1] == "(" and text[-1:] == ")":
        text = text[1:-1].strip()
    if not text:
        return dots < 2
    if len(text) > _MAX_CHARS or dots > 1 or text == "N/A":
        return False
    if _CHINESE.fullmatch(text):
        return not _CHINESE_REFUSED.search(text)
    words: list[str] = []
    for match in _TOKEN.finditer(text):
        if match["power"] or match["by"]:
            if not words:
                return False
        elif match[0][0].isalpha():
            words.append(match[0].rstrip(".").replace("’", "'"))
        else:
            return False
    lower = [word.lower() for word in words]
    measures = [_measure(word) for word in words]
    if lower == ["times"]:
        return True
    if any(measures) and all(m or word in _QUALIFIERS for m, word in zip(measures, lower, strict=True)):
        return True
    if not lower or len(lower) > _MAX_WORDS:
        return False
    if trusted and all(len(word) > 1 or m for word, m in zip(words, measures, strict=True)):
        return not _REFUSED_EVEN_OF_GOLDS.intersection(lower)
    return _counted(lower, one)


def _measure(word: str) -> bool:
    """km, miles, kilowatt-hours"""
    if word in _KNOWN or (len(word) > 2 and word.lower() in _KNOWN):
        return True
    return "-" in word and all(map(_measure, word.split("-")))


def _counted(words: list[str], one: bool) -> bool:
    """Whether the phrase's noun, the last word before "of", "per" and the like, is a plural."""
    if all(word in _BEHIND for word in words):
        return True
    while len(words) > 1 and words[-1] in _BEHIND:
        words = words[:-2] if words[-2] == "in" and len(words) > 2 else words[:-1]
    if len(words) > 2 and words[-2:] == ["in", "all"]:
        words = words[:-2]
    if words[0] == "of" and len(words) > 1:  # 3/4 of the cake
        words, one = words[2 if words[1] in ("a", "an", "the") else 1 :], True
    if not words or any(word in _REFUSED or word.endswith(("ly", "n't")) for word in words if word not in ("a", "an")):
        return False
    if any(len(word) == 1 and word != "a" for word in words[:-1]):
        return False
    ends = [at for at, word in enumerate(words) if word in _JOINTS] or [len(words)]
    if ends[0] == 0 or words[-1] in _JOINTS:
        return False
    noun = words[ends[0] - 1]
    return one or _plural(noun) or _measure(noun)


def _plural(word: str) -> bool:
    return word in _PLURALS or (len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")))
