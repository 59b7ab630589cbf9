"""Pickles are read without foreign code, and what pandas wrote becomes the numbers that it held."""

from __future__ import annotations

import base64
import io
import os
import pickle
import subprocess
import sys
import zlib
from datetime import datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytz

from rdagent_sota_bridge.factor_set import safe_pickle


def read(content: object, protocol: int = pickle.HIGHEST_PROTOCOL) -> Any:
    """Return an object as it is read back from its pickle."""
    return safe_pickle.load(io.BytesIO(pickle.dumps(content, protocol)))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "series",
    [
        pd.Series({"IC": 0.1, "Rank IC": np.nan, "ffr": -np.inf}, name="0"),
        pd.Series({"a": 1, "b": -2}),
        pd.Series({"a": 1.5, "b": 2}, dtype="float32"),
        pd.Series({"a": 1.5, "b": 2}, dtype=object),
        pd.Series({"a": 1.5}, dtype=">f8"),
        pd.Series([], index=pd.Index([], dtype=object), dtype=float),
        pd.Series({1: 2.0}),
    ],
    ids=["float", "whole", "narrow", "objects", "byte order", "empty", "numbers as names"],
)
def test_series(series: pd.Series, protocol: int) -> None:
    """Every number stands at its name, in whatever form the pickle has it."""
    expected = {str(name): float(value) for name, value in series.items()}
    assert safe_pickle.metrics(read(series, protocol)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_frames(unit: str, protocol: int) -> None:
    """Columns of several types, in rows of any day, are what they were, in both orders of memory."""
    index = pd.DatetimeIndex(["2017-01-03", "2017-01-04", "2020-02-29"]).as_unit(unit)
    frame = pd.DataFrame({"a": [1.0, np.nan, 3.0], "n": [1, 2, 3], "b": [0.5, 0.25, -1]}, index=index)
    frame["c"] = np.array([1, 2, 3], dtype="float32")
    for one in (frame, frame.copy(), frame.T.copy().T, frame[["b", "a"]]):
        found = safe_pickle.table(read(one, protocol))
        pd.testing.assert_frame_equal(found, one.astype(float), check_like=True)


# A series and a frame as each of these pickled them (protocol 5; 1.5.3: 4), zlib and base85: the oldest and
# the newest that the environment of Qlib may have. What pandas 3 wrote, pandas 2 itself can't read.
WRITTEN_BY = {
    "pandas 1.5.3, numpy 1.24.4": (
        "c-oay-A)rh6z(qF3J6gUL=q%;p{X|;P-DC>K`1eSm1;nZ7m~^BcG}r=yRAFBLKBI4K>;&&9DM^{!Fb0j_z2$k40@+$W?N|axp0"
        "%6IXN@uXTI+{AF`jnS{ePx(FP4mRM=iUVzywB&jiTadTJcN?T@exd6^}(N(6Gc`?4R#EDC8L>>3Seg+&-Ry6%USfGq}fuezFg("
        "<J!~kk@*nOKgh?+oghm93&yzB+JT&_xVL>b!=U|L}LnaJWOhhW*S~gg4m}~M4KRoNW{E)DB>vbVhoX%z6kOHmeW@bz{%`D!Ej+"
        "0)*$Z~j=2MTTw0~L*<dQfeEI<P_tMioX}p7CvAFUVKfO5fF}V91*owJaz`ScTtj?gt&@HnetuZJjEexg`z{mK6s>Ua~YfVeD+*"
        "9G<i3%B2p>R26<>!35|9KDSR!N8XB}9UcoSprK>W$yzw^Tzs-|l4_iJZ0P?%8uGiWKn%J}7gpqDR1ncIV#GAW;Xl>_?Ibo*|L_"
        "ZsH@tA)1y5e2-}i9n&#X-GnAWKb;_cSf!(z0a9Zz)ofwUc`7X$$EXX{2`LA(qRj~!1ocfpN=XAV)0mNfx-1Z|CwN{OvyixQq+2"
        "WHNFgi-mN4;SZFhvpEuND@C*&rtwu4FFyW&`<ATN<5Z1`R^U_@h}w00U$$7}(=vtO9$CF93ohm>^BJW}NFCkRW{F;#TBa_@9bL"
        "+3;h_+294ch8i7(N1r+_jVPd1Abbi1&Z?XWzpA>h0H}PPNEQ`fq&MkBXiv{k=M@}OXQHneoc`&s%LYl?KqmzPjdLAPq!kk^q{W"
        "?5VK4X(r9iS<6m4_P$!GjtFn?JZK}JCG^)Fcqhbr~iC+2s`o(Zj1CF?^9^;xlg)8<|Fj2~y2qQ-9)ceny)BjJU=XQSm*W{P6Oy"
        "=;u`1X5Txl!sCDM#!L6veIrT=sV!1R8p#7XC~QsEJ8M&ew2oo^JzxiT|rTk+?0e{{i?UFeU"
    ),
    "pandas 2.0.0, numpy 1.24.4": (
        "c-oy*-A)rh6z(qF%5RhkA_)?_(5yENs3BaKAe5LuLrp-9F_O*fcG}r=yRAFBLKBI4K`F`HapX~qi5I+rkKm2Zpm%y^whLRt8@J"
        "inlQVOE=KH?W55}jjMn*j%-y(j6@Pg9}Xo1tfr5r?VJ2sBt-bdI6Q)I11EdVi_KJ5A-4SeG9LWB6EMgt7YZ@YfYqpM!isc**KI"
        "ElFf;%0wzh3-*aunDIihAp4&TI<q>=h=ub5?fWTkdT0w^rJ?r9fvm}FLX%|kT!@>E1*u(=V1^zA%+M;9RzU&%c&#BP|6%YQM2I"
        "?w!kcDCH(-{q%bOByG3P){&WeBy7BIS(B470T;BMNk6KF0A=pPd*owYh#JpR?ug{@H(Jit*X;3If9SkOT&3vj&G!aP$#E4Z5nh"
        "iUuRuv-V$+b-S`Mw-~f4v7bEA(n#GmkDblfkO;0zxZ77#C$@>?$I~#@Pg$l6Pg(>6_k`y|X*)u56f@y<Yc`==s9J!@@$0GC@9o"
        "4U3#D>Ep1Y+_|^Ji{!?V7(@|RxQ9d!+L4P4_-Gp3a~-NMF6kvr){RKS6*Ly&i&YX`4OtBu62&I=Y!YFRFht$RPOPd&YRa4<p4Z"
        "&vRwZg-W)f1%BR2IobU8DHHV=_4#?xA=29g0Ww1$bFC_51@GgwZHUXY`>(F?Xb*XHLs265Gj{Fdv~J!&Zoq!tV2$=sz}eLGD!>"
        "uo#+b{`SYJHQqtFRYA+WJ|h4BwiVn=@RO--dFE^74>e4diLNF;<dg4S^{}opaYWVe~V!t5rfDDG>iftMTBqGX(C@~afn-&4J$H"
        "7L$@KR%&UoA>p9LQw=2dj`cy08dLQO$EHTTBWwqLS=ct$0R^-kqaq6@pshUZ*5l5xFI4ic&oAZq?ub+>V71jvm<~f+zzre)4ia"
        "H7yVZmRB*vb1}IzRuF>ZpiBFK_>tKAFg5P8a#-pOey!0ypr_fWCn;Ka_xr!Q?`qpr>+STVhDgNi1#l49DfgKCqYgzUuPG?m*!W"
        "Eh03="
    ),
    "pandas 2.2.3, numpy 2.0.2": (
        "c-oy)O-~a+8163J%4d{sNf7a%sh16?AskE)N=%@kCSWwikjd<J+S#z()}38}M4}!jG?^Q({1mSo`~&_3Fa7{edee7iTUfAO+|A"
        "Cud1u~_d7kI}V14>xW%MIQ8Z;<VVY~H^*@A^06CiV2iE#q=Kf(dzWtP;cA;_8ZVK0bS7*Jo>H5$+=3o&qH%L}SLTk-4e&PL)*l"
        "H|8R-n<-LW_wK74iyY!KMB|_SyMhd&j+N{v32z_jVQ>8Ag(p`ZKC6Au^)Lf4Cy||K@u{z9*8K6-3Vi(rB8yqhV}H36DVd5p<p<"
        "01e=gA8b$LE__(yn(SC!e5cAn0w2qVA9%;OTQmM558y~$Cmm+Xl+t`b_R=~WQG}xI%i=kU)16pHHiklcr@t&jUKG8-jU62E$64"
        "q-@T&ZYG@~1a4>F3*0^8fW7_>43wm%4d;rJD?vRX31E0ivWTAL7>$D?ZG}_@uflpGsf#j%uFY<@Z#_Jl}5i0I8m{=O5Yg3C<K5"
        "0p2fjjv`RNwsz;<Qa@H3i?SDGKyVMK?sZ}hDG1QCgzvdbgIqL=hN>IWSZHhr0*qBU%IYIE7E#S7B4rT`9hDZ1BGixShg5u8)#f"
        "Di{ravT<+y?QX~c+69p(!-7W{=Y<{)<Da9UH9P-T;StC;?&wmSmm7SGASE3%Xm?O@`2j=0b>$m=8y8lJo3Goq1DnzZw$vt1ecd"
        "e&jCz3~M21H{2>0$)(<@Dk#ZEt(3KWaSl=t|I`W{WsfxEdVbi0RFHG{l=vNMhEz$Kob<*|CU5gM-nm@vM3G%loEbfw~nl(B_eN"
        "i8(QR#MP5x2I-)0cwe2{c;FcV^>eH>r(My=?>BKD4gf#Z|E>JJ6E~}jt>h7?zqG~$bMiQ0o;=I^$d)(J==YC{M8fye|;{wd=Ut"
        "nTi1rueAu;3dZcIy6Jr|7>@wF*e|($@E>)3HqEY(aefIj-CXO8%9Qy@8TAQh>|e&V@ij&(y*<WuKasMB4m04*JUj;IHs|eJo<9"
        "3HBdTus8Y"
    ),
    "pandas 3.1.1, numpy 2.5.5": (
        "c-oy*%Wl&^6tzuk+Cl}i2#|OqKtUjjmk^6eJQ6?<5hS`|Q4M2fk}<WN;2A?BQ2`4|E6t7zJA}lRkKh;h1b%@XJGe8pA!)+~N3l"
        "n9=f2K4cV4;g&v}-4lsBMhhYC>MBFiEs;2oTK4XaRBHIno)P)CXbe%Q~LAElCIDUF4n(3JLAhK_TKQQC{y&A1;f-!FEHAoV3s2"
        "gbcSY=sFwpn`##At`%K?&>`}&n@LvYm>c0B?UEK`ja>cgio`K4l(5+LI%SXlBa_xT#gxOH*aXmO&Tt<4hB%OrCa5&V^L;Ur8$N"
        "6dq=$=wf0+hsMD6VrW_8K_Vors$@?kXdHJ)zXbsP)eQBNyhCVTkBzY_&6C2b{lCiL#3Yq1h)c&qH32Hl5Q08k{Z=hiZpflE6cF"
        "TDK{Dg8lRZ8c<RoGZBtlO0R0^05Ny<hm4SL>RDU}FhEaqc!S?n9a`AHx;H?KKEgEu{&AcCPEBi23|zskla7Lxg~Ivwjlf-LB!M"
        "{$aN@`h34ue1E<KepWf%v4R#h6=Y#%-Gs6mAd9SgmhVE|_#VEO?;pYU2tUqG>i+rZ(e8cS55LGS=_Xb|O(Tl5(@*0eY>2lI@GE"
        "6MX!Fkd7cTo33RzGT5bzo01zK+cmdv*IjK;Y(+*VVlT7ouYeJaQ!Br3(FE8-|*hKiQcvUMpr&4twP5u^dLh(iBZO2Q;H@<T9PV"
        "$h|^rBb5Ybv>jT)1F!Gr*YhWE=VUIV0<bWiD|%M0qcTC%03TyfC`&#VzAqpj#Et+ce$r_ZkidjZ%plfh7HuNzgjna>w#IQe>gU"
        "g!f#(IDoew4;McKhXAO8$)5R&GP-{6Fh2qUubht_pcKLP6uTexaq6mItf*$O#1a<{;kzfrp-~Z6aL4Ig#*tSY$TO}FgWlZK-iq"
        "gY>E$kzO<s4L!QHLkpImjoIQKAW+GZ#;@+!(olW;gGZ#csJy{v4cep&(TE|3X#U0#&=-aB>0I6#gUvgVj%-k^hOb(b#Q0P9B}Q"
        "<yzL`kDtGMaxJLfQBxHNh+H>gPs=-l8O)iQ)|&4cnerY^^pjQKG5*takz)k^HxET!H2"
    ),
}


@pytest.mark.parametrize("writer", WRITTEN_BY)
def test_what_other_releases_wrote(writer: str) -> None:
    """What the pandas and numpy of the environment of Qlib wrote is read, whatever their releases."""
    content = zlib.decompress(base64.b85decode("".join(WRITTEN_BY[writer])))
    series, frame = safe_pickle.load(io.BytesIO(content))
    assert safe_pickle.metrics(series) == pytest.approx({"IC": 0.5, "Rank IC": np.nan}, nan_ok=True)
    found = safe_pickle.table(frame)
    assert [day.isoformat() for day in found.index.date] == ["2017-01-03", "2020-02-29"]
    expected = {"return": [0.5, -0.25], "n": [1.0, 2.0], "cost": [None, 2.0]}
    assert found.astype(object).where(found.notna(), None).to_dict("list") == expected


def test_moments() -> None:
    """A moment in Python's own zones is what it was; one in a foreign zone does not stop the reading."""
    plain = datetime(2026, 1, 5, 9, 30, 1, 7)
    for zone in (None, timezone.utc, timezone(timedelta(hours=8))):
        assert read({"at": plain.replace(tzinfo=zone)}) == {"at": plain.replace(tzinfo=zone)}
    found = read({"at": pytz.timezone("Asia/Shanghai").localize(plain), "resp": "yes"})
    assert found["resp"] == "yes"
    assert not isinstance(found["at"], datetime)


@pytest.mark.parametrize(
    ("take", "content"),
    [
        (safe_pickle.metrics, 7),
        (safe_pickle.metrics, {"a": 1}),
        (safe_pickle.metrics, np.arange(3.0)),
        (safe_pickle.metrics, pd.Index(["a"])),
        (safe_pickle.metrics, pd.Series(["text"])),
        (safe_pickle.metrics, pd.Series([1.0 + 2j])),
        (safe_pickle.metrics, pd.Series(pd.Categorical(["a"]))),
        (safe_pickle.metrics, pd.Series(pd.array([1, None]))),
        (safe_pickle.metrics, pd.Series([[1.0]])),
        (safe_pickle.table, pd.DataFrame({"a": ["text"]}, index=["x"])),
        (safe_pickle.table, pd.DataFrame({"a": [1.0]}, index=pd.MultiIndex.from_tuples([("x", "y")]))),
        (safe_pickle.table, pd.DataFrame([[1.0, 2.0]], columns=["a", "a"], index=["x"])),
        (safe_pickle.table, pd.DataFrame({"a": pd.DatetimeIndex(["2017-01-03"], tz="UTC")}, index=["x"])),
    ],
    ids=[
        *("number", "dictionary", "array", "index", "texts", "complex", "categories", "masked", "lists"),
        *("texts in a frame", "two levels", "a name twice", "time zone"),
    ],
)
def test_what_holds_no_numbers(take: Any, content: object) -> None:
    """What is no series or frame of numbers, or not read whole, is one of the errors that callers expect."""
    with pytest.raises(safe_pickle.DAMAGE):
        take(read(content))


@pytest.mark.parametrize("fields", [(None, None, -1, -1), (("a",), {"a": (np.dtype("O"), 0)}, 8, 1)])
def test_bytes_do_not_become_objects(fields: tuple[Any, ...]) -> None:
    """A type that hides that it holds objects is no type of numbers: numpy would crash on such an array."""

    class Disguised:
        def __reduce__(self) -> tuple[Any, ...]:
            return np.dtype, ("O8", False, True), (3, "|", None, *fields, 0)

    class Array:
        def __reduce__(self) -> tuple[Any, ...]:
            # What `pickle` of protocol 5 calls for an array.
            make: Any = np.arange(1.0).__reduce_ex__(5)[0]
            return make, (b"\x41" * 16, Disguised(), (2,), "C")

    index = pd.Index(["a", "b"], dtype=object)
    found = read(pd.Series([1.0, 2.0], index=index))
    vars(found._mgr)["0.14.1"]["blocks"][0]["values"] = read(Array())
    with pytest.raises(safe_pickle.DAMAGE, match="an array of type O8"):
        safe_pickle.metrics(found)


class _Hostile:
    """Asks the unpickler to make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_nothing_is_run(protocol: int, tmp_path: Path) -> None:
    """What a pickle asks for is neither called nor imported, wherever it stands."""
    hostile = _Hostile(tmp_path / "a")
    for content in (hostile, [hostile], {"x": hostile}, pd.Series([hostile], index=["IC"])):
        read(content, protocol)
    # A name that is kept is kept as a text: no function behind it is called.
    source = f"cbuiltins\nslice\n(cos\nmkdir\n(V{tmp_path / 'a'}\ntRtR."
    assert not isinstance(safe_pickle.load(io.BytesIO(source.encode())), slice)
    assert list(tmp_path.iterdir()) == []


def test_neither_pandas_nor_numpy_is_imported() -> None:
    """Reading a session that holds pandas' data imports neither: a listing stays fast."""
    content = pickle.dumps(pd.Series({"IC": 1.0}))
    code = (
        "import io, sys\nfrom rdagent_sota_bridge.factor_set import safe_pickle\n"
        f"safe_pickle.load(io.BytesIO({content!r}))\n"
        "print([name for name in ('pandas', 'numpy') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_trust_without_the_metadata_of_rdagent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An RD-Agent that is run from a checkout has no version, and its sessions are read all the same."""
    monkeypatch.setattr(metadata, "version", lambda name: metadata.distribution(f"no {name} at all").version)
    with_none = safe_pickle.trust()
    monkeypatch.undo()
    assert with_none == ["", *safe_pickle.trust()[1:]]
