"""Texts that have nothing to do with any question: a poem, nonsense of our own in its style, and plain remarks.

The nonsense tells whether it matters that models know the poem by heart.
"""

from __future__ import annotations

POEM = (  # Lewis Carroll, Jabberwocky (1871): its twelve different couplets
    "'Twas brillig, and the slithy toves\nDid gyre and gimble in the wabe;",
    "All mimsy were the borogoves,\nAnd the mome raths outgrabe.",
    "“Beware the Jabberwock, my son!\nThe jaws that bite, the claws that catch!",
    "Beware the Jubjub bird, and shun\nThe frumious Bandersnatch!”",
    "He took his vorpal sword in hand:\nLong time the manxome foe he sought,",
    "So rested he by the Tumtum tree,\nAnd stood awhile in thought.",
    "And as in uffish thought he stood,\nThe Jabberwock, with eyes of flame,",
    "Came whiffling through the tulgey wood,\nAnd burbled as it came!",
    "One, two! One, two! And through and through\nThe vorpal blade went snicker-snack!",
    "He left it dead, and with its head\nHe went galumphing back.",
    "“And hast thou slain the Jabberwock?\nCome to my arms, my beamish boy!",
    "O frabjous day! Callooh! Callay!”\nHe chortled in his joy.",
)
NONSENSE = (
    "The plimmering drossels hum at dusk\nWhere quandle reeds are thinly spun;",
    "Old Murgatroon, in fleering husk,\nUnwinds the brazzle from the sun.",
    "Oh, never wake a sleeping Trome\nThat snubbles under yestern hay;",
    "It whirks its spandrels, foam on foam,\nAnd grindles half the moon away.",
    "Seven pale skillops left the quay\nWith lanterns made of velvet crumb;",
    "They fribbled over glassy sea\nTo where the hollow wumbats drum.",
    "Beneath the oskery they lay,\nTheir bellowed noses wrapped in fern,",
    "While gossip, in a mottled way,\nCrept lopping round the smoky churn.",
    "Who stole the thrumple from its shelf?\nCried Aunt Zemolia to the broom;",
    "Not us, yelped every spindled elf,\nAnd vaxed politely through the room.",
    "So tell the nimbing bells to cease,\nLet jorrows fold and twindles nod:",
    "Our grumly evening ends in peace\nUpon the softly slumping sod.",
)
REMARKS = (
    "The ferry to the outer islands leaves at dawn in summer, and the bakery by the pier opens even earlier.",
    "My neighbour has painted his garden fence dark green, which the local sparrows do not seem to mind at all.",
    "Wool shrinks in hot water, so grandmother always rinsed her cardigans in the stream behind the old mill.",
    "On quiet evenings the lighthouse keeper plays the accordion, mostly slow waltzes that nobody else remembers.",
    "The museum's stuffed walrus was moved to another hall last spring, next to some very dusty butterflies.",
    "Rain had been forecast for the village fair, yet the brass band marched and the cakes stayed dry.",
    "Our cat sleeps on the warm lid of the piano and complains whenever somebody wants to practise.",
    "Lavender grows best in poor, stony soil with plenty of sun, and bees find it from far away.",
    "The night train crosses the border while most passengers are asleep, their shoes lined up along the corridor.",
    "Somebody left a red umbrella in the waiting room, and it has been hanging there since October.",
    "Pumpkin soup tastes better on the following day, particularly with a little nutmeg and toasted seeds.",
    "The orchestra tuned for so long that the children in the balcony took it for the overture.",
    "Between the two hills runs a narrow lane where blackberries ripen late and foxes are often seen.",
    "The potter keeps his failed vases on a high shelf because their odd shapes make visitors smile.",
    "Fog hid the harbour until noon; afterwards fishing boats came in with more gulls than herring.",
    "She collects postcards of railway stations, preferably with clocks, steam and people in heavy winter coats.",
    "Every Thursday the travelling library stops beneath the chestnut tree, and its driver lends out jigsaws too.",
    "The theatre's velvet curtain weighs more than the grand staircase, or so the caretaker likes to claim.",
    "Snow fell on the vineyards in April, and lanterns were lit among the rows to save the buds.",
    "An old gramophone in the attic still works, provided that one turns the handle with enough patience.",
    "The mountain hut serves lentils with smoked cheese, and its only window looks out over a glacier.",
    "Two herons have taken over the mill pond, to the great annoyance of the resident ducks.",
    "He repaired the weathercock with copper wire, and ever since it has pointed stubbornly to the south.",
    "Cinnamon bark is peeled in the rainy season, when the trees are soft and the air smells sweet.",
)
