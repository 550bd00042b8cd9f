"""Entries of annotation files, for the tests of the training data."""


def entry(video, *exchanges, **bounds):
    """Make an entry of the public format; an exchange is (instruction, question, answer)."""
    return {"video": video, "QA": [{"i": i, "q": q, "a": a} for i, q, a in exchanges], **bounds}


def chat(*turns, **fields):
    """Make an entry of chat JSONL from texts and paths of videos (those that end in .mp4), user first."""
    messages = []
    for number, turn in enumerate(turns):
        parts = [turn] if isinstance(turn, str) else turn
        content = [
            {"type": "video", "path": part} if part.endswith(".mp4") else {"type": "text", "text": part}
            for part in parts
        ]
        messages.append({"role": ("user", "assistant")[number % 2], "content": content})
    return {"messages": messages, **fields}
