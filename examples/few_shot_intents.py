"""Eight sentences for each intent: what a voice assistant is asked to do.

python examples/few_shot_intents.py

With so few rows the classifier learns from pairs of sentences: alike or not. No parameter is set.
"""

import time

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_transformers import TransformerTextClassifier

TRAIN = {
    "alarm": """get me up at six; set an alarm for seven thirty; wake me in twenty minutes; I have
        to be awake by dawn; cancel my morning alarm; ring at noon please; no alarm on Sunday;
        remind me to rise early tomorrow""",
    "weather": """will it rain today; do I need an umbrella; how hot is it outside; is there snow
        in the mountains; what will the sky be like at the weekend; is a storm coming; how cold
        does it get tonight; tell me the forecast for Rome""",
    "music": """play some jazz; put on my running playlist; skip this song; turn the volume up; I
        want to hear the new album; who sings this; something calm for the evening please; play
        that track again""",
    "lights": """switch the lamp on; make the kitchen brighter; it is too dark in here; lights off
        in the bedroom; dim the living room; turn everything off upstairs; red light in the hall;
        leave the porch lit all night""",
    "shopping": """put milk on the list; we are out of coffee; order more dog food; what do I still
        have to buy; take eggs off the list; add two kilos of flour; I need batteries from the
        shop; get the same shampoo as last time""",
}
TEST = {
    "alarm": """let me sleep until nine; buzz me at a quarter to five; stop waking me on holidays;
        I must not miss the early train, rouse me at four; snooze""",
    "weather": """should I take a coat; is it sunny in Lisbon; any chance of thunder; will the ice
        on the lake hold; how windy is the coast this afternoon""",
    "music": """louder; next one please; what is the name of this tune; play something by a string
        quartet; shuffle my favourites""",
    "lights": """I cannot see a thing in the cellar; brighten up the desk; make it dark for the
        film; switch off the bulb above the sink; light up the garden""",
    "shopping": """there is no bread left; write down butter; what is missing in the fridge; buy
        new socks; we need three lemons for Friday""",
}


def rows(texts_of):
    pairs = [
        (" ".join(text.split()), intent)
        for intent, texts in texts_of.items()
        for text in texts.split(";")
    ]
    return zip(*pairs, strict=True)


(X_train, y_train), (X_test, y_test) = rows(TRAIN), rows(TEST)
print(f"{len(X_train)} sentences to learn from, {len(X_test)} to be judged by\n")
models = {
    "TF-IDF + logistic regression": make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)),
    "only the head is trained": TransformerTextClassifier(tuning="head", random_state=0),
    "TransformerTextClassifier": TransformerTextClassifier(random_state=0),
}
for name, model in models.items():
    start = time.perf_counter()
    model.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    print(f"{name:30s} accuracy {model.score(X_test, y_test):.2f}, fit {seconds:.1f} s")

print(f"\ntuning_ = {model.tuning_!r}\n")
for text, intent, scores in zip(X_test, y_test, model.predict_proba(X_test), strict=True):
    guess = model.classes_[scores.argmax()]
    if guess != intent:
        print(f"{text!r}: {guess} ({scores.max():.0%}) instead of {intent}")
