"""The token rules of Penn Treebank text, as the Java program of caption evaluation applies them.

A token is what the longest match of any rule says; of equally long ones the earlier rule counts.
What a rule wants to see behind its token is a part of its length. Characters of no rule separate
words, like a blank.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

# Combining marks that stand in words, and symbols that stand alone: ranges of code points.
_MARKS = """00ad 02c2-02c5 02d2-02df 02e5-02eb 02ed 02ef-036f 0375 0378-0379 0384-0385 03f6
0483-0487 055a-055f 0591-05bd 05bf 05c1-05c2 05c4-05c5 05c7 0615-061a 064b-065e 0670 06d6-06e4
06e7-06ed 06fd-06fe 070f 0711 0730-074c 07a6-07b0 07eb-07f3 0900-0903 093c 093e-094e 0951-0955
0962-0963 0981-0983 09bc 09be-09c4 09c7-09c8 09cb-09cd 09d7 09e2-09e3 0a01-0a03 0a3c 0a3e-0a4f
0a81-0a83 0abc 0abe-0acf 0b82 0bbe-0bc2 0bc6-0bc8 0bca-0bcd 0c01-0c03 0c3e-0c56 0d3e-0d44 0d46-0d48
0e31 0e34-0e3a 0e47-0e4e 0eb1 0eb4-0ebc 0ec8-0ecd"""
_SYMBOLS = """0025-0026 002b-002c 002e-002f 003a-003b 003d 005c 005e 007c 007e 00a1 00a5-00a9 00ac
00ae-00b4 00b6-00b9 00bf 00d7 00f7 037e 0387 0589 05be 05c0 05c3 05c6 05f3-05f4 0600-0603 0606-060c
0614 061b 061e-061f 066a 066d 06d4 0700-070d 07f6-07f8 0964-0965 0e3f 0e4f 1fbd 2016-2017 201a
201e-2023 2030-2038 203b 203e-2042 2044 207a-207e 208a-208e 20a4 2100-2101 2103-2106 2108-2109 2114
2116-2118 211e-2123 2125 2127 2129 212e 213a-213b 2140-2144 214a-214d 214f 2190-2bff 3001-3002 3012
30fb ff01-ff0f ff1a-ff20 ff3b-ff40 ff5b-ff65 ffe0-ffe1 ffe5-ffe6"""

# Abbreviations that keep their period: those of months, places and companies; of persons; those
# that do with a capital only, because in small letters they are words; those before a number only.
_NAMES = r"""jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu(?:rs)? fri
ala ariz calif colo conn ct dak fla ga ind kans? ky md mich minn mo mont neb nev okla penn tenn va
vt wisc? wyo inc cos? corp pp?t[ye]s? ltd plc rt bancorp bhd assn univ intl sys tel est ext sq jr
bros (?:ed|ph)\.d esq etc al seq bldg"""
_TITLES = r"""mr mrs ms drs? profs? sens? reps? attys? lt col gen messrs govs? adm rev maj sgt cpl
pvt capt ste? ave pres lieut hon brig co?mdr pfc spc supts? det mt ft adj adv asst assoc ens insp
mlle mme msgr sfc sr vs alex wm jos cie cf treas ph invt elec natl m[ft]g dept blvd rd"""
_CAPITALS = """(?-i:A)z (?-i:A)rk (?-i:D)el (?-i:I)ll (?-i:L)a (?-i:M)ass (?-i:M)iss (?-i:O)re
(?-i:P)a (?-i:T)ex (?-i:W)ash"""
_NUMBERED = "ca figs? prop nos? arts? bldg pp op"
# Before these words the period behind a single letter ends a sentence.
_SENTENCE_STARTS = r"""About According Additionally After An? As At But Earlier Her? Here However If
In It Last Many More Mr\. Ms\. Now Once One Other Our She Since So Some Such That The Their Then
There These They This We When While What Yet You"""
_FILES = """bat bmp c class cgi cpp dll docx? exe gif gz h html? jar java jpe?g mov mp3 pdf php pl
png ppt ps py sql tar txt wav x xml zip"""

_TEXT = {
    "\u00a2": "cents", "\u00a3": "#", "\u0080": "$", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$",
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
    "&lt;": "<", "&gt;": ">", "{": "-LCB-", "}": "-RCB-", "[": "-LSB-", "]": "-RSB-",
    "---": "--", "----": "--",
}  # fmt: skip
_QUOTES = {
    "\u0091": "`", "\u2018": "`", "\u201b": "`", "\u2039": "`",
    "\u0092": "'", "\u2019": "'", "\u203a": "'",
    "\u0093": "``", "\u201c": "``", "\u00ab": "``",
    "\u0094": "''", "\u201d": "''", "\u00bb": "''",
}  # fmt: skip


class Rule(NamedTuple):
    """What a token looks like.

    Attributes:
      pattern: Pattern whose group 1 is the token; the rest is what must follow it.
      change: Function that makes the token's text of what was found.
    """

    pattern: re.Pattern[str]
    change: Callable[[str], str]


def make_rules() -> list[Rule]:
    """Returns all rules, in the order of their precedence."""
    # Python counts fractions, superscripts and Roman numerals among the characters of words.
    plain, digit, either = rf"[^\W\d_{_numerals()}]", r"\d", rf"[^\W_{_numerals()}]"
    letter = f"(?:{plain}|[{_points(_MARKS)}]|&[aeiou](?:acute|grave|uml);)"
    blank, gap = r"[ \t\u00a0\u2000-\u200a\u3000]", r"[ \t\u00a0\u2000-\u200a\u3000\n]"
    quote = r"(?:['\u0092\u2019]|&apos;)"
    quotes = r"(?:['\u0092\u2019`\u0091\u2018\u201b]|&apos;)"
    word = f"{letter}(?:{letter}|{digit})*(?:[.!?]{letter}(?:{letter}|{digit})*)*"
    clitic = f"{quote}(?:[msd]|re|ve|ll)"
    number = rf"(?:{digit}*(?:[.:,\u00ad\u066b\u066c]{digit}+)+|{digit}+)"
    acronym = (
        r"(?:[a-z](?:\.[a-z])*|u\.s\.-(?:u\.k|u\.s\.s\.r)"
        r"|(?:canada|sino|korean|eu|japan|non)-u\.s)"
    )
    name = "[a-z][a-z0-9_:.-]*"
    value = f"""(?: *= *(?:'[^']*'|"[^"]*"|{name}))?"""
    tag = rf"<(?:[!?][a-z-][^>\n]*|/{name}|{name}(?: +{name}{value})* */?) *>"
    path = r'(?:/[^ \t\n"<>|()]+[^ \t\n"<>|.!?(){},-])?'
    part = f"(?:[dol]{quotes}{either})?{either}+"
    dotted = r"[a-z0-9][a-z0-9.,\u00ad]*(?:-(?:[a-z](?:\.[a-z])+\.|[a-z0-9\u00ad]+))+"
    slashed = r"[a-z0-9]+(?:-[a-z]+){0,2}"
    joined = "(?-i:[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)"
    stop = r"[,;:\u3001]"
    rules: list[Rule] = []

    def rule(pattern: str, change: Callable[[str], str] = _plain, before: str = "") -> None:
        rules.append(Rule(re.compile(f"({pattern}){before}", re.IGNORECASE), change))

    rule(r"c\+\+|[cf]#")
    # Two words in one: the second is left for the next token.
    rule("can", before="not")
    rule("'t", before="was")
    rule(f"{quote}t", _closed, before="is")
    rule("gon|wan", before="na")
    rule("got", before="ta")
    rule("lem|gim", before="me")
    # Markup.
    rule(tag, _unbroken)
    rule(r"&(?:md|mdash|ndash);|[\u0096\u0097\u2013-\u2015]", lambda token: "--")
    rule("&amp;", lambda token: "&")
    rule("&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|#[0-9]+);")
    # Words, alone and before 's and n't; words that have an apostrophe.
    rule(word, _unhyphenated, before=clitic)
    rule(r"[a-z\u00ad]*[a-mo-z]\u00ad*", _unhyphenated, before=f"n{quotes}t")
    rule(word, _unhyphenated)
    rule(f"{quote}(?:n{quote}?|em|[2-9]0s|till?|cause)|(?:[ldj]|dunkin|somethin|ol){quote}")
    rule(f"(?-i:[A-HJ-XZn]){quotes}{plain}{{2,}}|o{quotes}o")
    rule(f"{plain}+[aeiouy]{quotes}(?-i:[aeiouA-Z]){plain}*")
    rule(r"cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l")
    rule(f"y{quote}", before=f"{plain}")
    # Addresses. In the third pattern ",-_" is a range; it shuts out capitals and digits.
    rule(r'https?://[^ \t\n"<>|()]+[^ \t\n"<>|.!?(){},-]')
    rule(rf'www\.(?:[^ \t\n"<>|.!?(){{}},]+\.)+[a-z]{{2,4}}{path}')
    rule(rf"""(?:(?-i:[^ \t\n"`'<>|!?(){{}},-_$])+\.)+(?:com|net|org|edu){path}""")
    rule(
        r'(?:&lt;|<)?[a-z0-9][^ \t\n"<>|(){}\u00a0]*@(?:[^ \t\n"<>|(){}.\u00a0]+\.)*'
        r'[^ \t\n"<>|(){}.\u00a0]+(?:&gt;|>)?'
    )
    rule(f"@[a-z_][a-z_0-9]*|#{letter}+")
    rule(clitic, _closed, before="[^a-z]")
    rule(f"n{quotes}t", _closed, before="[^a-z]")
    # Numbers.
    rule(f"{digit}{{1,2}}[-/]{digit}{{1,2}}[-/]{digit}{{2,4}}")
    rule(f"[-+]?{number}", _unhyphenated)
    rule("[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)")
    rule(rf"(?:{digit}{{1,4}}[- \u00a0])?{digit}{{1,4}}(?:\\?/|\u2044){digit}{{1,4}}", _unbroken)
    rule("[\u00bc-\u00be\u2153-\u215e]")
    rule(rf"-[lr][rcs]b-|c\.d\.s|pro-|anti-|s(?:&|&amp;)(?:p-500|ls)|cap{quote}n|c{quote}est", _and)
    rule(rf"{slashed}(?:\\?/{slashed}){{1,2}}")
    rule(r"(?-i:[A-Z]*)\$|#")
    rule("[\u00a2-\u00a5\u0080\u20a0\u20ac]")
    # Abbreviations.
    rule("[a-z]", before=rf"\.{gap}+(?-i:{_one_of(_SENTENCE_STARTS)})[ \t\n?!]")
    rule(rf"{_one_of(_NUMBERED)}\.", before=f"{blank}?[0-9]")
    rule(rf"{_one_of(f'{_NAMES} {_CAPITALS}')}\.", before="(?s:..)")
    rule(rf"(?:{_one_of(f'{_TITLES} (?-i:M)iss')}|{acronym})\.")
    rule(f"{_one_of(_TITLES)}|{acronym}", before=blank)
    rule(acronym, before=gap)
    rule(f"{quote}[0-9][0-9]", before=gap)
    rule("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z?")
    rule(rf"{either}+(?:\.{either}+)*\.{_one_of(_FILES)}", before=rf"(?:{gap}|[.?!,])")
    rule(rf"{word}\.", _unhyphenated, before=stop)
    rule(
        r"(?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
        r"[0-9]{3,4}[- \u00a0]?[0-9]{3,5}"
        r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
        _named,
    )
    # Punctuation.
    rule('"|&quot;', lambda token: "``", before="[a-z0-9$]")
    rule('"|&quot;', lambda token: "''")
    rule("<<|>>|<|>|&lt;|&gt;")
    rule(r"(?-i:[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])", _named, before="[^a-z0-9]")
    rule(
        r"(?-i:[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\))",
        _named,
    )
    rule(r"[\[\]{}]")
    rule("[()]", _named)
    rule("-+")
    rule(r"\.{3,5}|[\u0085\u2026]|\.[ \u00a0](?:\.[ \u00a0])+\.", lambda token: "...")
    rule(r"[@]+|#+|_+|\*+|(?:\\\*){1,3}|[?!]+")
    rule(rf"{dotted}", _unhyphenated)
    rule(rf"{dotted}\.", _unhyphenated, before=stop)
    rule(rf"{part}(?:[-_\u058a\u2010\u2011]{part})*\.", _closed, before=stop)
    rule(rf"{part}(?:[-_\u058a\u2010\u2011]{part})*")
    rule(rf"{joined}\.", _and, before=stop)
    rule(joined, _and)
    rule("['`]", lambda token: "`", before=r"[a-z][^ \t\n\u00a0]")
    rule(
        rf"''|[`\u2018\u2019\u201b-\u201d\u0091-\u0094\u2039\u203a\u00ab\u00bb]{{1,2}}|{quote}",
        _closed,
    )
    rule(clitic, _closed)
    rule(f"[{_points(_SYMBOLS)}]")
    return rules


def _points(ranges: str) -> str:
    """Returns code points, and ranges of them, as the inside of a character class."""
    return re.sub("[0-9a-f]{4}", r"\\u\g<0>", "".join(ranges.split()))


def _numerals() -> str:
    """Returns the numerals that are no decimal digits as the inside of a character class."""
    points = map(chr, range(0x10000))
    return "".join(x for x in points if unicodedata.category(x) in ("Nl", "No"))


def _one_of(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


def _plain(token: str) -> str:
    return _TEXT.get(token.lower(), token)


def _unbroken(token: str) -> str:
    return token.replace(" ", "\u00a0")


def _named(token: str) -> str:
    return _unbroken(token).replace("(", "-LRB-").replace(")", "-RRB-")


def _unhyphenated(token: str) -> str:
    return token.replace("\u00ad", "") or "-"


def _and(token: str) -> str:
    return re.sub("(?i)&amp;", "&", token)


def _closed(token: str) -> str:
    """Returns a token with its quotation marks in ASCII."""
    return "".join(_QUOTES.get(character, character) for character in re.sub("&apos;", "'", token))
