"""Unicode mathematics -> LaTeX commands.

In: any text. Out: the same with commands for mathematical characters; superscripts, subscripts, root and degree signs
are left for `spelling`, which reads them in context. Must not know: what the text means.
"""

from __future__ import annotations

import re
import unicodedata

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "﹣": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ",
    "•": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "º": "°", "˚": "°",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}",
    "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}",
    "′": "'", "’": "'", "\u00a0": " ", "\u2009": r"\,", "\u202f": r"\,", "，": ", ", "。": ".", "（": "(", "）": ")",
    "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "⟨": "(", "⟩": ")", "∧": r" \text{ and } ", "∨": r" \text{ or } ", "∖": r"\setminus ",
    "Δ": r"\Delta ", "∆": r"\Delta ", "φ": r"\phi ", "ω": r"\omega ", "λ": r"\lambda ", "μ": r"\mu ", "γ": r"\gamma ",
    "≡": r"\equiv ", "：": ":", "；": ";", "％": "%", "∠": r"\angle ", "△": r"\triangle ", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∑": r"\sum ", "∫": r"\int ", "←": "", "→": r"\to ",
    "\u200b": "", "\ufeff": "", "\u2061": "", "\u2062": "",
    "\x0crac": r"\frac", "\x0c": "", "⇒": r"\implies ", "ρ": r"\rho ", "σ": r"\sigma ", "τ": r"\tau ", "δ": r"\delta ",
    "ε": r"\epsilon ", "ζ": r"\zeta ", "η": r"\eta ", "κ": r"\kappa ", "ν": r"\nu ", "ξ": r"\xi ", "χ": r"\chi ",
    "ψ": r"\psi ", "Ω": r"\Omega ", "Σ": r"\Sigma ", "Π": r"\Pi ", "Φ": r"\Phi ", "Γ": r"\Gamma ",
}  # fmt: skip
_CHARACTERS = str.maketrans({key: value for key, value in _UNICODE.items() if len(key) == 1})
SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
SUBSCRIPT = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_KEPT = re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ₀₁₂₃₄₅₆₇₈₉√°]+)")


def shown(text: str) -> str:
    """Unicode mathematics as LaTeX commands."""
    if text.isascii():
        return text
    text = text.replace("\x0crac", r"\frac").translate(_CHARACTERS)
    if text.isascii():
        return text
    kept = _KEPT.split(text)
    return "".join(part if at % 2 else unicodedata.normalize("NFKC", part) for at, part in enumerate(kept))
