"""Texts on which tokenizers tend to disagree."""

NASTY = (
    "Hello, world! It's a test; don't panic. THE END'S near — is it?\n",
    "def f(x):\n\treturn {'a': [x**2 for _ in range(10)]}  # note\n\n\n    if x != 3.14:\n        pass\r\n",
    "   leading, trailing   ",
    "\t\ttabs\t and \u00a0 odd\u2003spaces\u3000\n \n  \n",
    "naïve café Ærøskøbing Straße ﬁne Ångström e\u0301 \u212b \u1e9b\u0323",
    "日本語のテキスト、中文字符。 한국어 ไทย العربية עברית हिन्दी",
    "👩‍👩‍👧‍👦 🏳️‍🌈 😀😃 \U0001f1e9\U0001f1ea 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "1234567890 3.14159 1,000,000 ٣٤٥ ½ ² Ⅷ x1y22z333",
    "zero\u200bwidth\ufeff bom \u202eright-to-left\u202c \x00\x01\x7f control",
    "'ſ 'S 'RE 'll'd'M 'x",
    "<0x41> ▁ ▁▁ <s> </s> <unk>",
    "a" * 300 + " " * 70 + "\n" * 9 + "!" * 40,
    "",
    " ",
    "\n",
)
