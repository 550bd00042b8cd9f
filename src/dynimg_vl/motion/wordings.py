# ruff: noqa: RUF001  (letters of other languages)
"""The words of the motion world: how each family of questions may be asked, and how it is answered."""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "direction": (
        "Which way does the object move?",
        "In which direction does the object move?",
        "Which way does the moving object go?",
        "Where does the object go?",
        "Which direction is the object moving?",
        "Which way is it moving?",
        "Does the object move left, right, up or down?",
        "How does the object move?",
    ),
    "direction_of": (
        "Which way does the {colour} object move?",
        "In which direction does the {colour} object move?",
        "Where does the {colour} object go?",
        "Which way does the {colour} one go?",
        "What does the {colour} object do?",
        "How does the {colour} object move?",
    ),
    "moves": (
        "Does the {colour} object move?",
        "Is the {colour} object moving?",
        "Does the {colour} one move?",
    ),
    "speed": (
        "Does the object move fast or slowly?",
        "How fast does the object move?",
        "Is the object fast or slow?",
        "What is the speed of the moving object?",
    ),
    "start_stop": (
        "Does the object start or stop?",
        "Does the object start or stop moving?",
        "Does it start moving or stop moving?",
    ),
    "appear": (
        "Does anything appear or disappear?",
        "Does an object appear or disappear?",
        "Does something appear or vanish?",
    ),
    "first": (
        "Which object moves first?",
        "Which one moves first?",
        "What moves first?",
        "What happens first?",
        "What colour is the object that moves first?",
    ),
    "meet": (
        "What do the two objects do?",
        "Do the objects meet or move apart?",
        "Do the two objects come together or move apart?",
    ),
    "camera": (
        "How does the camera move?",
        "What does the camera do?",
        "What is the camera motion?",
        "Which way does the camera move?",
        "Does the camera pan or zoom?",
    ),
    "camera_moves": (
        "Does the camera move?",
        "Is the camera moving?",
        "Is there any camera motion?",
    ),
    "anything": (
        "Does anything move?",
        "Is anything moving?",
        "Is there any motion in this video?",
        "Does something move in the video?",
        "Is there movement?",
    ),
    "count": (
        "How many objects are there?",
        "How many objects are in the video?",
        "How many objects do you see?",
        "Count the objects.",
        "How many things are there?",
    ),
    "moving_count": (
        "How many objects move?",
        "How many objects are moving?",
        "How many things move?",
        "How many moving objects are there?",
    ),
    "colour": (
        "What colour is the moving object?",
        "What color is the moving object?",
        "Which object moves?",
        "What is the colour of the object that moves?",
        "What is moving?",
        "What moves?",
    ),
    "shape": (
        "What shape is the object?",
        "What is the shape of the object?",
    ),
    "shape_of": (
        "What shape is the {colour} object?",
        "What is the shape of the {colour} object?",
    ),
    "moving_shape": (
        "What shape is the moving object?",
        "What is the shape of the object that moves?",
    ),
    "describe": (
        "What happens in this video?",
        "What happens?",
        "Describe the video.",
        "What is happening?",
        "What is going on in this video?",
        "Describe the motion.",
    ),
    "unknown": (
        "Who is in the video?",
        "What is the person saying?",
        "Where was this filmed?",
        "What is the name of the man?",
        "What time is it?",
        "Why is she laughing?",
        "What does the sign say?",
        "What is the weather like?",
        "Is the person happy?",
        "What will happen next?",
        "What music is playing?",
        "Who won the game?",
        "What is the person wearing?",
        "How old is the woman?",
        "What is he cooking?",
        "Which animal is this?",
        "What is the capital of France?",
        "Tell me a joke.",
        "Hello!",
        "Who are you?",
        "What sport are they playing?",
        "How many people are there?",
        "What brand is the car?",
        "Is this indoors or outdoors?",
        "What is she holding in her hand?",
        "What year was this made?",
        "Who made this video?",
        "What is written on the wall?",
        "Is it day or night?",
        "What language do they speak?",
        "Can you translate this?",
        "Write a poem.",
        "What is two plus two?",
        "Why does he run away?",
        "How does the story end?",
        "What kind of food is on the table?",
        "Which city is this?",
        "What is the dog doing?",
        "Is the child asleep?",
        "What is the mood of the scene?",
    ),
    "foreign": (
        "In welche Richtung bewegt sich das Objekt?",
        "Was passiert in diesem Video?",
        "Wie viele Objekte sind zu sehen?",
        "Bewegt sich etwas?",
        "Wohin geht der rote Ball?",
        "Dans quelle direction va l'objet ?",
        "Que se passe-t-il dans cette vidéo ?",
        "Combien d'objets y a-t-il ?",
        "Est-ce que quelque chose bouge ?",
        "Quelle est la couleur de l'objet ?",
        "¿En qué dirección se mueve el objeto?",
        "¿Qué pasa en este vídeo?",
        "¿Cuántos objetos hay?",
        "¿Se mueve algo?",
        "¿De qué color es el objeto?",
        "In quale direzione si muove l'oggetto?",
        "Cosa succede in questo video?",
        "Em que direção o objeto se move?",
        "O que acontece neste vídeo?",
        "Welke kant gaat het object op?",
        "Co się dzieje w tym filmie?",
        "Куда движется объект?",
        "Что происходит на видео?",
        "物体往哪个方向移动？",
        "视频里发生了什么？",
        "有多少个物体？",
        "物体はどちらに動きますか？",
        "何が起きていますか？",
        "물체가 어느 방향으로 움직입니까?",
        "في أي اتجاه يتحرك الجسم؟",
        "वस्तु किस दिशा में जाती है?",
        "Nesne hangi yöne gidiyor?",
    ),
}
"""All wordings by family."""

FAMILIES = tuple(QUESTIONS)
PLACE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "place": ("Where is the {colour} object?",),
    "place_in": ("Where is the {colour} object in picture {picture}?",),
}
"""Families that planned worlds alone have (`plan`); the tokenizer of the embedded model is not trained on them."""
ALL_FAMILIES = (*FAMILIES, *PLACE_QUESTIONS)
"""All families there are, in the order of their numbers."""
PLACE_ANSWERS = tuple(
    f"{row} {column}." for row in ("Top", "Middle", "Bottom") for column in ("left", "centre", "right")
)
"""Ninths of a picture, row by row."""
NOUNS = ("ball", "thing", "car", "person", "shape", "box", "man", "dog", "square", "circle")
"""Other words for an object; a user's word for it should not matter. The tokenizer is not trained on them."""

UNKNOWN = "I do not know. I only know about motion."
FOREIGN = "I only understand English."
PATH_ANSWERS = {
    "still": "It stays still.",
    "left": "It moves left.",
    "right": "It moves right.",
    "up": "It moves up.",
    "down": "It moves down.",
    "swing": "It moves back and forth.",
    "circle": "It moves in a circle.",
    "appear": "It appears.",
    "disappear": "It disappears.",
}
CAMERA_ANSWERS = {
    "still": "It stays still.",
    "left": "It pans left.",
    "right": "It pans right.",
    "up": "It tilts up.",
    "down": "It tilts down.",
    "in": "It zooms in.",
    "out": "It zooms out.",
    "change": "The scene changes.",
}
COUNT_ANSWERS = ("There are no objects.", "One object.", "Two objects.", "Three objects.")
MOVING_ANSWERS = ("None of them.", "One of them.", "Two of them.", "Three of them.")
APPEAR_ANSWERS = {"appear": "An object appears.", "disappear": "An object disappears.", "": "No."}
START_ANSWERS = {"start": "It starts.", "stop": "It stops.", "move": "Neither."}
MEET_ANSWERS = {"meet": "They meet.", "part": "They move apart."}
SPEED_ANSWERS = ("", "Slowly.", "Fast.")

OPTION_CLOSINGS = ("", "\nAnswer with the letter.", "\nOnly give the best option.")
"""What may stand below the options of a multiple-choice question; the last is MVBench's."""
BEST_OPTION = ("Best option: (", "Best option:(")
"""How an answer under MVBench's closing begins; an evaluation may put it into the model's mouth."""


def turn_answer(first: str, then: str) -> str:
    """Say that something goes one way, then another."""
    return f"First {first}, then {then}."


def colour_answer(colour: str) -> str:
    """Name an object by its colour."""
    return f"The {colour} one."


def shape_answer(shape: str) -> str:
    """Name a shape."""
    return f"A {shape}."


def short_form(answer: str) -> str:
    """Shorten an answer as the options of a question are: "It moves left." to "left", "The red one." to "red"."""
    words = answer.rstrip(".")
    for opening in ("It moves ", "It pans ", "It tilts ", "It ", "The ", "A ", "There are "):
        if words.startswith(opening) and words != "The scene changes":
            words = words.removeprefix(opening)
            break
    for closing in (" one", " of them", " object", " objects"):
        words = words.removesuffix(closing)
    return "none" if words.lower() == "no" and answer.startswith("There") else words
