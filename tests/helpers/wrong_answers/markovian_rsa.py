"""Wrong answers to the exercises of lesson 10: exercise id -> what is wrong -> source.

Those of `rsa` change a line of a right one."""

RSA = '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
'''
CHOSEN = "chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]"
DRAW = 'draw = random.Random(f"{seed}/{question}")'
JOINED = "aggregate = aggregate or (lambda question, tails: question + sum(tails, []))"
TAILS = "tails = [trace[-rsa.tau:] for trace in traces[-1]]"

WRONG = {
    "rsa": {
        "the tail is the head": RSA.replace(TAILS, "tails = [trace[:rsa.tau] for trace in traces[-1]]"),
        "with replacement": RSA.replace(
            CHOSEN, "chosen = [[tail] if rsa.C == 1 else draw.choices(tails, k=rsa.C) for tail in tails]"),
        "C = 1 drawn": RSA.replace(CHOSEN, "chosen = [draw.sample(tails, rsa.C) for tail in tails]"),
        "from all rounds": RSA.replace(
            TAILS, "tails = [trace[-rsa.tau:] for earlier in traces for trace in earlier]"),
        "T counts all rounds": RSA.replace("rsa.T + 1", "max(1, rsa.T)"),
        "prompts are counted": RSA.replace("own in traces for", "own in traces + prompts for"),
        "one subset for all": RSA.replace(
            CHOSEN, "same = draw.sample(tails, rsa.C)\n"
                    "            chosen = [[tail] if rsa.C == 1 else same for tail in tails]"),
        "the seed ignored": RSA.replace(DRAW, 'draw = random.Random(f"{question}")'),
        "whole traces": RSA.replace(TAILS, "tails = [trace for trace in traces[-1]]"),
        "the question dropped where aggregate is None": RSA.replace(
            JOINED, "aggregate = aggregate or (lambda question, tails: sum(tails, []))"),
        "the same subsets in every round": RSA.replace(
            CHOSEN, 'draw = random.Random(f"{seed}/{question}")\n'
                    "            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]"),
        "its own trace is never read": RSA.replace(
            CHOSEN, "chosen = [[tail] if rsa.C == 1 else\n"
                    "                      draw.sample(tails[:n] + tails[n + 1:], min(rsa.C, rsa.N - 1))\n"
                    "                      for n, tail in enumerate(tails)]"),
        "its own trace is always read": RSA.replace(
            CHOSEN, "chosen = [[tail] if rsa.C == 1 else\n"
                    "                      [tail, *draw.sample(tails[:n] + tails[n + 1:], rsa.C - 1)]\n"
                    "                      for n, tail in enumerate(tails)]"),
        "the question is left out of the draw": RSA.replace(DRAW, "draw = random.Random(seed)"),
        "the tails forgotten where aggregate is None": RSA.replace(
            JOINED, "aggregate = aggregate or (lambda question, tails: list(question))"),
        "the first tail alone where aggregate is None": RSA.replace(
            JOINED, "aggregate = aggregate or (lambda question, tails: question + tails[0])"),
        "the question grows in place": RSA.replace(
            JOINED, "def joined(question, tails):\n"
                    "        for tail in tails:\n"
                    "            question += tail\n"
                    "        return list(question)\n"
                    "\n"
                    "    aggregate = aggregate or joined"),
        "neighbours in a ring": RSA.replace(
            CHOSEN, "chosen = [[tail] if rsa.C == 1 else (tails + tails)[at: at + rsa.C]\n"
                    "                      for tail in tails for at in [draw.randrange(rsa.N)]]"),
        "equal tails are one": RSA.replace(
            CHOSEN, "different = sorted(set(map(tuple, tails)))\n"
                    "            chosen = [[tail] if rsa.C == 1 else\n"
                    "                      list(map(list, draw.sample(different, min(rsa.C, len(different)))))\n"
                    "                      for tail in tails]"),
        "only the length of the question in the draw": RSA.replace(
            DRAW, 'draw = random.Random(f"{seed}/{len(question)}")'),
        "seed and question added": RSA.replace(DRAW, "draw = random.Random(seed + sum(question))"),
    },
    "majority": {
        "no answer votes": '''
def my_majority(answers):
    votes = [str(answer) for answer in answers]
    return max(votes, key=votes.count) if votes else "nobody"
''',
        "an empty answer does not vote": '''
def my_majority(answers):
    votes = [answer for answer in answers if answer]
    return max(votes, key=votes.count) if votes else "nobody"
''',
        "the first": '''
def my_majority(answers):
    votes = [answer for answer in answers if answer is not None]
    return votes[0] if votes else "nobody"
''',
        "the last of equals": '''
def my_majority(answers):
    votes = [answer for answer in answers if answer is not None]
    return max(votes[::-1], key=votes.count) if votes else "nobody"
''',
        "the largest": '''
def my_majority(answers):
    votes = [answer for answer in answers if answer is not None]
    return max(votes) if votes else "nobody"
''',
        "nobody forgotten": '''
def my_majority(answers):
    votes = [answer for answer in answers if answer is not None]
    return max(votes, key=votes.count) if votes else ""
''',
    },
}
