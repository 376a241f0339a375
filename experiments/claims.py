"""The papers' tables as commands of train.py, and the papers' claims as orders of their rows.

    about    what is compared, on which data
    flags    of all rows, beside a row's own
    metrics  {name: (place in metrics.json, place of the value that chance has, flags of its runs)};
             of places "A|B" the first that is there counts
    columns  {title: place} of what else the tables show; at a place that ends in "|" there may be nothing
    rows     {row: flags}; {name} stands for the run folder of that row, or first run, with the same seed
    first    {name: flags} of runs that are not rows
    claims   (what the paper says, the order of rows that would show it, names of metrics);
             a claim without metrics is asked of all

"A, B > C" says that A and B are each better than C, ">=" better or equal; "A + 0.02" helps A by 0.02;
"chance" is a row too.
"""


PROBES = dict(                       # the article's comparison, on either films
    first={"backbone": "--model vit --data psoriasis --target pasi:regression"},
    rows={"CNN": "--model cnn --image 64",
          "Model1 (class)": "--model probe --head class --pretrained {backbone}",
          "Model2 (tokens)": "--model probe --head tokens --pretrained {backbone}",
          "Model3 (resized)": "--model probe --head resized --pretrained {backbone}",
          "resized-2d": "--model probe --head resized-2d --pretrained {backbone}"},
    claims=[("the tokens beat the CNN", "Model2 (tokens) > CNN"),
            ("the CNN beats the class token", "CNN > Model1 (class)")])

EXPERIMENTS = {
    "multivit": dict(
        about="Murray et al. 2024, on the simulated psoriasis cohort. One photograph costs Baseline less "
              "time: it has 28 epochs in the time in which the others have 20.",
        flags="--model multivit --data psoriasis",
        metrics={"MAE of PASI": ("pasi/mae", "pasi/constant/mae", "")},
        columns={"per image": "pasi/per_image/mae|",
                 "mean error": "pasi/mean_error",
                 "MAE, skin types I-IV": "pasi/subgroups/fst I-IV/mae|",
                 "MAE, skin types V-VI": "pasi/subgroups/fst V-VI/mae|"},
        rows={"Baseline": "--mode baseline --epochs 28",
              "Partial-3-1": "--mode partial --n 3 --r 1",
              "Partial-3-2": "--mode partial --n 3 --r 2",
              "Multi-3-1": "--mode multi --n 3 --r 1",
              "Multi-3-2": "--mode multi --n 3 --r 2",
              "Multi-3-2 with its own class token": "--mode multi --n 3 --r 2 --cls-token stage2"},
        claims=[("several photographs beat one", "Partial-3-1, Partial-3-2, Multi-3-1, Multi-3-2 > Baseline"),
                ("handing over tokens beats handing over pixels alone, R = 1", "Multi-3-1 > Partial-3-1"),
                ("handing over tokens beats handing over pixels alone, R = 2", "Multi-3-2 > Partial-3-2"),
                ("Multi-3-1 is the best", "Multi-3-1 > Baseline, Partial-3-1, Partial-3-2, Multi-3-2")]),
    "crossvit": dict(
        about="Chen, Fan, Panda 2021, Table 6, on the simulated chest films: CrossViT-9 at 96 px, with cross "
              "attention 292 M multiply-adds, and two ViTs of one scale: with patches of 12 px 27 % more of "
              "them, with 16 px 29 % less. Each branch alone is in metrics.json.",
        flags="--data chest --image 96 --epochs 36",
        metrics={"mean AUROC of the findings": ("findings/auroc", "findings/constant/auroc", "")},
        rows={"None": "--model crossvit --fusion none",
              "All-attention": "--model crossvit --fusion all",
              "Class token": "--model crossvit --fusion class",
              "Pairwise": "--model crossvit --fusion pairwise",
              "Cross-attention": "--model crossvit --fusion cross",
              "ViT of 12 px": "--model vit --size tiny --patch 12",
              "ViT of 16 px": "--model vit --size tiny --patch 16"},
        claims=[("cross-attention is the best of the five",
                 "Cross-attention > None, All-attention, Class token, Pairwise"),
                ("fusing class tokens, or tokens pair by pair, helps", "Class token, Pairwise > None"),
                ("attention over all tokens does not help", "None >= All-attention"),
                ("two scales beat one", "Cross-attention > ViT of 12 px, ViT of 16 px")]),
    "softmax_free": dict(
        about="Khader et al. 2024, on simulated bags of up to 11,039 vectors.",
        flags="--model vit",
        metrics={"AUROC": ("subtype/auroc", "subtype/constant/auroc", "--data bag --epochs 12")},
        rows={"softmax": "--attention softmax",
              "SimA": "--attention sima",
              "sequence norm": "--attention seqnorm",
              "sequence norm from softmax": "--attention seqnorm --pretrained {softmax}"},
        claims=[("sequence norm is at least as good as SimA", "sequence norm >= SimA"),
                ("sequence norm is about as good as softmax (here: not worse by 0.02)",
                 "sequence norm + 0.02 > softmax"),
                ("fine-tuned from softmax weights it is as good as softmax (not worse by 0.02)",
                 "sequence norm from softmax + 0.02 > softmax")]),
    "lt_vit": dict(
        about="Marikkar et al. 2023, Tables 1 and 3 and Figure 2, on the simulated chest films. Pointing "
              "game: how often the strongest patch of the last block's map (the label's, or else the class "
              "token's) touches the finding; and the same of the mean of the label's maps over all blocks "
              "with label tokens, where a model has such blocks.",
        flags="--data chest --lr 1e-3 --batch-size 8 --epochs 30",
        metrics={"mean AUROC of the findings": ("findings/auroc", "findings/constant/auroc", ""),
                 "pointing game": ("localization/label token/pointing|localization/class token/pointing",
                                   "localization/chance/pointing", ""),
                 "pointing game, mean of the label blocks": (
                     "localization/label token, mean of label blocks/pointing|"
                     "localization/label token/pointing|localization/class token/pointing",
                     "localization/chance/pointing", "")},
        first={"gmml": "--model gmml --data chest --batch-size 16 --epochs 60"},
        rows={"class token": "--model vit",
              "Query2Label": "--model q2l",
              "LT-ViT": "--model lt_vit --label-layers 2",
              "full attention": "--model lt_vit --label-layers 2 --label-attention full",
              "no label self-attention": "--model lt_vit --label-layers 2 --label-attention no-label-self",
              "class token from GMML": "--model vit --pretrained {gmml}",
              "Query2Label from GMML": "--model q2l --pretrained {gmml}",
              "LT-ViT from GMML": "--model lt_vit --label-layers 2 --pretrained {gmml}"},
        claims=[("GMML on the same films helps the class token", "class token from GMML > class token",
                 "mean AUROC of the findings"),
                ("GMML helps LT-ViT", "LT-ViT from GMML > LT-ViT", "mean AUROC of the findings"),
                ("from GMML, label tokens beat the class token and Query2Label",
                 "LT-ViT from GMML > class token from GMML, Query2Label from GMML",
                 "mean AUROC of the findings"),
                ("label tokens beat the class token", "LT-ViT > class token", "mean AUROC of the findings"),
                ("label tokens beat Query2Label's decoder", "LT-ViT > Query2Label",
                 "mean AUROC of the findings"),
                ("one-way attention is the best of the three",
                 "LT-ViT > full attention, no label self-attention", "mean AUROC of the findings"),
                ("a label's map shows its finding", "LT-ViT > chance",
                 "pointing game", "pointing game, mean of the label blocks"),
                ("and better than the class token's map does", "LT-ViT > class token",
                 "pointing game", "pointing game, mean of the label blocks")]),
    "daft": dict(
        about="Pölsterl et al. 2021, Tables 2 and 3, on the simulated brain cohort: diagnosis of three "
              "classes, and time to dementia.",
        flags="--model daft --data brain",
        metrics={"balanced accuracy": ("diagnosis/balanced_accuracy", "diagnosis/constant/balanced_accuracy",
                                       "--target diagnosis:classes"),
                 "c-index": ("time/c_index", "time/constant/c_index", "--target time/event:survival")},
        rows={"Linear": "--fusion linear",
              "ResNet": "--fusion image",
              "Linear on ResNet features": "--fusion linear-features --pretrained {ResNet}",
              "Concat-1FC": "--fusion concat-1fc",
              "Concat-2FC": "--fusion concat-2fc",
              "1FC-Concat-1FC": "--fusion 1fc-concat-1fc",
              "Duanmu": "--fusion duanmu",
              "FiLM": "--fusion film",
              "DAFT": "--fusion daft",
              "before the block": "--fusion daft --location 0",
              "before the shortcut": "--fusion daft --location 1",
              "before the first ReLU": "--fusion daft --location 3",
              "before the second conv": "--fusion daft --location 4",
              "alpha = 1": "--fusion daft --without scale",
              "beta = 0": "--fusion daft --without shift",
              "sigmoid": "--fusion daft --activation sigmoid",
              "tanh": "--fusion daft --activation tanh"},
        claims=[("DAFT is the best of Table 2",
                 "DAFT > Linear, ResNet, Linear on ResNet features, Concat-1FC, Concat-2FC, 1FC-Concat-1FC, "
                 "Duanmu, FiLM"),
                ("the table alone beats the volume alone", "Linear > ResNet"),
                ("both together beat the volume alone",
                 "Concat-1FC, Concat-2FC, 1FC-Concat-1FC, Duanmu, FiLM, DAFT > ResNet"),
                ("FiLM beats every concatenation", "FiLM > Concat-1FC, Concat-2FC, 1FC-Concat-1FC",
                 "balanced accuracy"),
                ("DAFT needs its scale", "DAFT > alpha = 1"),
                ("DAFT needs its shift", "DAFT > beta = 0"),
                ("the scale matters more than the shift", "beta = 0 > alpha = 1"),
                ("no other place is better",
                 "DAFT >= before the block, before the shortcut, before the first ReLU, "
                 "before the second conv",
                 "balanced accuracy")]),
    "probes": PROBES | dict(
        about="Mindlina 2024, on the simulated chest films. The frozen ViT has learned from photographs of "
              "skin, as the article's had from the photographs of ImageNet: it has seen no film.",
        flags="--data chest --lr 1e-3",
        metrics={"mean AUROC of the findings": ("findings/auroc", "findings/constant/auroc", "")}),
    "pneumonia": PROBES | dict(
        about="Mindlina 2024, on Kermany's films, the folder chest_xray as it is distributed: normal, "
              "bacteria and virus, where the article has normal against both; and bacteria against virus.",
        flags="--data chest_xray --lr 1e-3 --optimizer Adam --weight-decay 0",
        metrics={"AUROC, three classes": ("cause/auroc", "cause/constant/auroc", "--target cause"),
                 "AUROC, bacteria against virus": ("germ/auroc", "germ/constant/auroc", "--target germ")}),
}
