"""The tokenizer: what the Java program makes of the same text, stored and asked anew."""

import importlib.util
import pathlib
import random
import shutil
import subprocess

import pytest

from jaxvision.metrics.ptb_tokenizer import ptb_tokenize

# Made by Stanford's PTBTokenizer 3.4.1 and pycocoevalcap's list of punctuation.
GOLDEN = """\
A man's dog, isn't it? "Yes," he said.
= a man 's dog is n't it yes he said
don't won't cannot can’t shan't gonna wanna gimme
= do n't wo n't can not ca n't sha n't gon na wan na gim me
It's the boys' bikes & the girl’s 2 kites.
= it 's the boys bikes & the girl 's 2 kites
'Tis the season; 'twas o'clock, rock'n'roll, y'all, ma'am!
= 't is the season 't was o'clock rock 'n' roll y' all ma'am
O'Neill, d'Avignon and c'mon: the '50s, 1990's, 80s
= o'neill d'avignon and c'mon the '50s 1990 's 80s
well-known t-shirt 50-year-old -- a mid-air jump - x—y – z
= well-known t-shirt 50-year-old a mid-air jump x y z
He said “hello” to 'them' and ``us''.
= he said hello to them and us
(a) [b] {c} <d> a<b
= -lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb- <d> a < b
Mr. Smith, Dr. Who and St. Louis vs. the U.S. etc.
= mr. smith dr. who and st. louis vs. the u.s. etc.
a sign with the letter C. The end
= a sign with the letter c the end
a sign with the letter c. on it
= a sign with the letter c. on it
Jan. 5th, No. 5, no. Fig. 3, approx. 4, Inc. Miss. miss.
= jan. 5th no. 5 no fig. 3 approx 4 inc. miss. miss
10:30 a.m. 5pm 3rd $5.00 US$5 £3 €20 5¢ 50% #1
= 10:30 a.m. 5pm 3rd $ 5.00 us$ 5 # 3 $ 20 5 cents 50 % # 1
3 1/2 cups, 1/2, 24/7, 3½, 12/25/2010, 1,000.50 -5 +3 .5
= 3\u00a01/2 cups 1/2 24/7 3 1/2 12/25/2010 1,000.50 -5 +3 .5
(415) 555-1212 or 415-555-1212
= -lrb-415-rrb-\u00a0555-1212 or 415-555-1212
http://foo.com/x?y=1, www.foo.org/bar foo.com me@foo.com. @bob #tag
= http://foo.com/x?y=1 www.foo.org/bar foo.com me@foo.com @bob #tag
wait... what. . . no .... so…
= wait what no so
:-) ;) :D ^_^ <3 !? !! ?!
= :--rrb- ;-rrb- :d ^_^ < 3 !? !! ?!
and/or w/ tub/shower a+b AT&T R&B A&amp;B &lt;x&gt; c++
= and/or w / tub/shower a + b at&t r&b a&b < x > c++
naïve café résumé's Ünïcode ñ 日本 ½-inch 20°C © ™
= naïve café résumé 's ünïcode ñ 日本 1/2 inch 20 ° c © ™
street.a cabinet,flowers desk.. rif=ding p;ayer bro! .hit
= street.a cabinet flowers desk rif = ding p ayer bro hit
a_b _c_ *d* ~ ^ | \\ / == 5'10" 6' 2"
= a_b _ c _ * d * ~ ^ | \\ / = = 5 10 6 2
<b>bold</b> <br/> &eacute; &quot;q&quot; it&apos;s
= <b> bold </b> <br/> &eacute; q it 's
spaces\ttab  end
= spaces tab end
"""
# From pycocoevalcap/tokenizer/ptbtokenizer.py.
PUNCTUATION = "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()
WORDS = """a the man woman dogs it's don't can't Mr Mrs St etc Inc U.S D.C e.g p.m No no vs t-shirt
well-known 50-year-old cannot gonna I'm he'll o'clock rock'n'roll 'em 'tis 1950s '50s 90's 5 10 3.5
1,000 1:30 12/25/2010 1/2 2-3 -5 .5 5th $5 £5 €20 50% 5am AT&T and/or w/ foo.com www.foo.org/bar
http://x.com/y?z me@foo.com @bob #tag 555-1212 (415) café naïve ½ 3½ O'Neill y'all c++ A B X-ray
3-D Dr Jan Ph.D OK gotta 'twas ma'am Co jr Sept dogs' boys’ it’s ‘tis The In He 4x4 _x_ a_b mid-air
re-do O'Brien's New$ A.M semi . . . ,""".split()
MARKS = """. , ! ? ; : ... .. - -- — – … ' " “ ” ‘ ’ ( ) [ ] / & * '' `` ` &amp; < > + = % $ # °
!! :) ;-D""".split()


@pytest.mark.parametrize("pair", GOLDEN.strip("\n").replace("\n= ", " => ").splitlines())
def test_golden(pair):
    text, tokens = pair.split(" => ")
    assert ptb_tokenize(text) == tokens


@pytest.mark.parametrize("text", ["", " ", "...", "\n", "?!\t.", "\U0001f600"])
def test_nothing(text):
    assert ptb_tokenize(text) in ("", "?!")


def test_line_breaks_and_unknown_characters_separate():
    assert ptb_tokenize("a\nb\r\nc\u2028d\U0001f600e\u200bf\x00g") == "a b c d e f g"


def test_tokens_stay():
    text = "the man 's t-shirt do n't -lrb- 5 cents -rrb- mr. o'clock i 'm can not"
    assert ptb_tokenize(text) == text


def test_equals_the_java_program(tmp_path):
    package = importlib.util.find_spec("pycocoevalcap")
    if not package or not shutil.which("java"):
        pytest.skip("needs Java and pycocoevalcap")
    rng = random.Random(0)

    def decorated(word):
        if rng.random() < 0.2:
            word = rng.choice((str.upper, str.capitalize))(word)
        before = rng.choice(MARKS) if rng.random() < 0.2 else ""
        return before + word + (rng.choice(MARKS) if rng.random() < 0.4 else "")

    texts = [
        "".join(decorated(rng.choice(WORDS)) + " " * (rng.random() < 0.9) for _ in range(8))
        for _ in range(2000)
    ]
    # A line that stands between two keeps the program from asking the next caption.
    (tmp_path / "text").write_text("\nx\n".join(texts), encoding="utf-8")
    folder = pathlib.Path(list(package.submodule_search_locations or [])[0]) / "tokenizer"
    command = ["java", "-cp", str(folder / "stanford-corenlp-3.4.1.jar")]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    output = subprocess.run(
        [*command, str(tmp_path / "text")], capture_output=True, check=True, timeout=120
    ).stdout.decode()
    lines = output.split("\n")[::2][: len(texts)]
    assert len(lines) == len(texts)
    wrong = []
    for text, line in zip(texts, lines, strict=True):
        expected = " ".join(w for w in line.rstrip().split(" ") if w not in PUNCTUATION)
        if ptb_tokenize(text) != expected:
            wrong.append((text, expected, ptb_tokenize(text)))
    assert not wrong
