"""Small talk and honesty: who the small model is, what it can do, and that it cannot do the rest.

In: a generator of random numbers. Out: conversations of 1 to 3 turns; prompts vary, each kind of prompt has one answer.
"""

from __future__ import annotations

import random

from minimax_m1.tasks.example import Example, Family, Message, assistant, matches, user, with_system
from minimax_m1.tasks.prose import sentence
from minimax_m1.tasks.words import ADJECTIVES, CITIES, NAMES, NOUNS, PLACES, made_up

HELLO = "Hello! How can I help you?"
WHO = "I am nano, a tiny MiniMax-M1 model. I can calculate, find facts in a text, solve puzzles and call tools."
BEYOND = "I am too small for that. I can calculate, find facts in a text, solve puzzles and call tools."

_GREETINGS = ("Hello!", "Hello.", "Hi!", "Hi there!", "Hey!", "Good morning!", "Good evening!", "Hello nano!")
_SMALL_TALK: tuple[tuple[str, tuple[str, ...]], ...] = (
    (HELLO, (*_GREETINGS, "Hi, I am {name}.", "Hello, my name is {name}.", "Greetings!", "Good day!")),
    (
        WHO,
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me about yourself.",
            "What can you do?",
            "What are you able to do?",
            "How can you help me?",
            "Can you help me?",
            "Help",
            "Introduce yourself.",
            "Which model are you?",
            "Are you a human?",
            "Are you a robot?",
            "Are you ChatGPT?",
            "What model is this?",
        ),
    ),
    ("I am fine, thank you.", ("How are you?", "How do you do?", "How is it going?", "Are you well?")),
    (
        "You are welcome.",
        ("Thanks!", "Thank you!", "Thank you very much.", "Great, thanks.", "Thanks a lot!", "Well done!"),
    ),
    ("Goodbye!", ("Bye!", "Goodbye!", "See you later.", "Good night!", "See you tomorrow.", "Bye bye!")),
    ("All right.", ("OK.", "Okay.", "Fine.", "I see.", "All right.")),
)
_BEYOND = (
    "Translate the following paragraph to French: {text}",
    "Translate the following paragraph to French: ...",
    "Translate this to {language}: {text}",
    'How do you say "{noun}" in {language}?',
    "Translate the word {noun} to {language}.",
    "Analyze the following 500K token legal document and summarize the key obligations:",
    "Analyze the following 500K token legal document and summarize the key obligations: {text}",
    "Analyze the following document and list the key {noun}s: {text}",
    "Summarize the following text: {text}",
    "Summarize this: {text}",
    "Write a summary of this paragraph: {text}",
    "Rewrite this sentence: {text}",
    "Write a poem about the {adjective} {noun}.",
    "Write a song about {city}.",
    "Write an essay about {noun}s.",
    "Write a letter to {name}.",
    "Write a function that sorts a list of {noun}s.",
    "Write a Python program that counts {noun}s.",
    "Write code to find the {adjective} {noun}.",
    "Explain how a {noun} works.",
    "Explain why the {place} is {adjective}.",
    "Explain {made_up} to me.",
    "Tell me a joke.",
    "Tell me a joke about a {noun}.",
    "Tell me about {city}.",
    "What do you think about {noun}s?",
    "What is the capital of {country}?",
    "What is a {noun}?",
    "What is the meaning of life?",
    "What does {made_up} mean?",
    "What is the weather in {city}?",
    "Who is {name}?",
    "Who was the first {noun}?",
    "Where is {city}?",
    "Where can I buy a {adjective} {noun}?",
    "When was {city} built?",
    "How far is it from {city} to the {place}?",
    "How do I cook a {noun}?",
    "How old is {name}?",
    "Why is the {noun} {adjective}?",
    "Give me a recipe with {noun}s.",
    "Give me advice.",
    "Draw a {adjective} {noun}.",
    "Play some music.",
    "Prove that there are {a} {noun}s.",
)
_LANGUAGES = ("French", "German", "Spanish", "Chinese", "English", "Italian", "Japanese", "Russian")
_COUNTRIES = ("France", "Germany", "Spain", "China", "Italy", "Japan", "Norway", "Egypt", "Peru", "India", "Canada")


def greeting(rng: random.Random) -> list[Message]:
    """A greeting and its answer."""
    return [user(rng.choice(_GREETINGS)), assistant(HELLO)]


def exchange(rng: random.Random) -> list[Message]:
    """One prompt, small talk or a request beyond the model, sometimes carelessly typed, and its answer."""
    if rng.random() < 0.4:
        answer, prompts = rng.choice(_SMALL_TALK)
    else:
        answer, prompts = BEYOND, _BEYOND
    prompt = rng.choice(prompts).format(
        text=" ".join(sentence(rng) for _ in range(rng.randint(1, 5))),
        noun=rng.choice(NOUNS),
        noun2=rng.choice(NOUNS),
        place=rng.choice(PLACES),
        adjective=rng.choice(ADJECTIVES),
        name=rng.choice(NAMES),
        city=rng.choice(CITIES),
        language=rng.choice(_LANGUAGES),
        country=rng.choice(_COUNTRIES),
        made_up=made_up(rng),
        a=rng.randrange(10 ** rng.randint(1, 4)),
        b=rng.randrange(10 ** rng.randint(1, 4)),
    )
    style = rng.random()
    if style < 0.15:
        prompt = prompt.rstrip(" .!?") or prompt
    elif style < 0.3:
        prompt = (prompt[0].lower() + prompt[1:]).rstrip(" .!?") or prompt
    elif style < 0.35 and answer == BEYOND:
        prompt = "Please " + prompt[0].lower() + prompt[1:]
    return [user(prompt), assistant(answer)]


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws a conversation; from difficulty 4 on it may have up to 3 turns."""
    count = rng.randint(1, 3) if difficulty >= 4 and rng.random() < 0.4 else 1
    messages = [message for _ in range(count) for message in exchange(rng)]
    turns = tuple(range(1, len(messages), 2))
    example = Example(family=FAMILY.name, difficulty=difficulty, messages=tuple(messages), turns=turns)
    return with_system(example, "You are a helpful assistant.") if rng.random() < 0.15 else example


FAMILY = Family(name="talk", sample=sample, verify=matches)
