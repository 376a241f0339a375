"""Words: what tables, folders and files call a blank, a yes, a mask or a split, in several languages.

The lists that any_of takes have commas and line ends between their words, and a word may be a pattern: x? is
an x or none, [ab] an a or a b, \\w* any ending. Whoever misses a word adds it to its list.
"""
import re


def any_of(words):
    """A list of words -> a pattern that is any of them."""
    return "(?:" + "|".join(re.split(r"\s*\n\s*|,\s+", words.strip())) + ")"


# -----------------------------------------------------------------------------
# cells

# a blank, of pandas, R, MATLAB, databases, spreadsheets, and of TCGA and the GDC, in small letters
MISSING = ("nan,na,n/a,n.a.,n.a,n\\a,<na>,#n/a,nat,none,null,?,-,--,.,-nan,#na,#n/a n/a,1.#ind,-1.#ind,"
           "1.#qnan,<missing>,<undefined>,(null),\\n,#null!,#div/0!,#ref!,#value!,#num!,#name?,–,—,\"\",'--,"
           "#nv,#wert!,#bezug!,#zahl!,#n/d,#valeur!,#valor!,#valore!,#getting_data,#spill!,#calc!,#field!,"
           "not available,not reported,[not available],[not applicable],[unknown]")

# what may stand for a blank, or be a class
NOT_YET = any_of("""
    know, given, stat, enter, provid, label, annotat, assign, tell, grad, specifi, record, applicable
    available, done, perform, test, sure, evalua, assess, determin, collect, measur
""")
NOT_KNOWN = any_of("""
    beka?nn?t, angegeben, verfügbar, erhoben, bestimm, auswert, beurteil
    renseign, précis, connu, disp[oõ]n, not[oa], inform, sab
    bekend, beschikbaar, указан, определ
""")
UNKNOWN = re.compile(r"(?i)[(\[<]?" + any_of(rf"""
    unk\.?, unkn\.?, unknown\.?, other ?/ ?unk(nown|n)?\.?, undefined, unspecified, undetermined, unsure
    uncertain, unclear, ambiguous, equivocal, indeterminate, inconclusive, maybe, pending, awaiting, to be \w+
    tb[acd], n\. ?[dk]\.?, [ns]/[dk], \.[a-z], [?._/…]+, blank, empty, to ?do, removed, withheld, declined
    un(labell?ed|annotated|grade?able), missing( values?| data)?, data (missing|not available), null value
    no (label|data|info(rmation)?|id|value|answer)( available)?, none[ _]selected, prefer not to \w+
    (not|cannot|can.?t|don.?t)[ _](yet |be )?{NOT_YET}\w*
    (nicht|non|no|n[aã]o|niet|не)[ _]{NOT_KNOWN}\w*
    unbekannt, unbek\., keine angaben?, k\. ?a\., fehl(t|end), wei(ß|ss) nicht
    inconnue?, nsp, ne sait pas
    desconocid[oa], ignorad[oa], ignot[oa], s\. ?d\., s(in|em) (datos?|dados|informa\w+)
    desconhecid[oa], deskonocid[oa], sconosciut[oa]
    onbekend, okänd, ukjent, ukendt, tuntematon
    nieznan[aey], brak danych, nezn[aá]m[aáeéyý], necunoscută?, ismeretlen
    άγνωστ\w+, неизвест\w+, нет данных, н/д, bilinmiyor, belirsiz, veri yok, غير معروف
    未知, 不详, 不明, 缺失, 无数据, 未标注, 待定, 不确定, 無法判定, 判定不能, 未記入, 미상, 알 수 없음
""") + r"[)\]>]?")

# yes and no, as labels
YES = """true t yes y ja oui si sí sim evet tak да 是 positive positiv positif positivo 阳性 pos present checked
    vrai wahr vero verdadero doğru var 有 x ✓ ✔ ● + ano igen kyllä ναι はい 예 陽性 양성""".split()
NO = """false f no n nein non nee nej nie não hayır hayir нет 否 negative negativ négatif negativo 阴性 neg
    absent unchecked faux falsch falso yanlış yanliş yok 无 - ne nem ei όχι いいえ 아니오 陰性 음성 ✗ ✘""".split()
# words that say the same
SHORT = dict(yes="y", no="n", true="t", false="f", male="m", female="f", positive="pos", negative="neg")

# nothing is found, in a list of findings
NO_FINDING = re.compile("(?i)" + any_of("""
    no[ _-]?((significant|acute|abnormal)[ _-])?(findings?|abnormalit(y|ies)), normal(es?)?, healthy
    unremarkable, ohne befund, unauffällig, 正常, 未见异常
"""))

# of two classes the one that is not to be detected, and the one that is
NEGATIVE = re.compile("(?i)" + any_of(r"""
    \w*-, -?0(\.0)?, -1(\.0)?, ✗, ✘
    n, no, false, neg, negativ[eo]?, none, absent, normal, healthy, controls?, cn, hc, nc, wild[ _-]?type, wt
    low([ _-](risk|grade))?, alive, living, stable, inactive, asymptomatic, unaffected, uninfected
    (no|non|not|without)[ _-].+
    nein, falsch, gesund, gutartig
    non, faux, n[ée]gatif, sain, b[ée]nin
    não, falso, sano, benigno?
    nee, nie, ne, nem, ei, hay[ıi]r, yanl[ıi]ş, yok, iyi huylu
    нет, όχι, 否, 阴性, 无, 正常, 良性, 陰性, いいえ, 아니오, 음성
"""))
POSITIVE = re.compile("(?i)" + any_of(r"""
    y, yes, true, pos, positive, ja, oui, s[ií], present, abnormal, high, diseased?, sick, cases?, affected
    dead, deceased, malignant, cancer, tumou?r, mel(anoma)?, pneumonia, covid.*, tuberculosis
"""))

# units of numbers
UNITS = any_of("""
    %, °, °c, [µu]m, mm, cm, m, [mc]m[²³23], px, ml, l, mg, g, kg, kg/m[²2], [mµun]?g/[dm]?l, m?mol/[dm]?l
    i?u/[dm]?l, 1?/min, /[µumn]?l, bpm, mmhg, k?pa, hu, m?gy, msv, [mg]bq, db, mm/h
    years?( old)?, yrs?, y, months?, mo, weeks?, w, days?, d, hours?, h, min, m?s
    jahre?n?, ans?, años?, anos?, anni, jaar, år, lat, лет, года?, yaş, سنة, 岁, 歳, 세
""")
MONTHS = any_of("jan, feb, mar, apr, may, jun, jul, aug, sep, oct, nov, dec")


# -----------------------------------------------------------------------------
# columns

# who the patient is; the first that is there counts
PATIENT_COLUMNS = ("patient_id|lesion_id|patient|Patient|Patient ID|PatientID|patientId|Patient_ID"
                   "|subject_id|Subject|Subject ID|participant_id|PTID|bcr_patient_barcode")
# where a patient was seen
SITE_COLUMN = re.compile("(?i)" + any_of("""
    site, cent(er|re), hospital, clinic, institut(e|ion), facility, data[ _-]?(set|source)
""") + r"([ _.-]*(id|name|code|nr))?")
# a split in numbers: fold, is_train, test set
SPLIT_COLUMN = re.compile(r"(?i)(is|in)?[ _.-]*((k|cv)[ _.-]?)?" + any_of(r"""
    folds?, partition, (sub)?set, train(ing)?, test(ing)?, hold[ _.-]?out, val(id(ation)?)?
""") + r"([ _.-]*(set|split|id|nr))*")
# of those who had no event
NO_EVENT = re.compile("(?i)" + any_of(r"""
    cens, zens, cenz, sans?ür, ценз, 删失, 截尾, 打ち?切, lost, ltfu, dropout, withdrawn, free$
    non?[ _.-]?event, (^|[ _.-])(no|non|not|without)[ _.-]
    alive, living, surviv(ed|or|al$), le[bv][ae]nd, lebt, überleb, (^|[ _.-])viv(o|a|ente|ant), survécu
    sobreviv, hayatta, żyj, żyw, жив, 存活, 生存$
"""))


# -----------------------------------------------------------------------------
# folders and files

# what operating systems and notebooks leave behind, and nobody wants to hear of
LITTER = re.compile("(?i)" + any_of(r"""
    \._.*, dicomdir, \.ds_store, thumbs\.db, desktop\.ini, \.ipynb_checkpoints, __macosx, @eadir
    \$recycle\.bin, \.git.*, \.directory, \.trash.*
"""))
# outlines that readers or programs drew, and thumbnails
DRAWN = any_of(r"""
    (?:bin(?:ary)?[ _-]?)?masks?, binary(?![ _-]?masks?), msks?, maske[nr]?, m[aá]scaras?, masques?
    mascher[ae], маск[аи], 掩[膜码], segm?s?, segmentations?(?:class|object)?, superpixels, trimaps?, parsing
    anot, ann(?:ot?)?(?:ation)?s?, annotated, labels?, lbls?, targets?, ground[ _-]?truths?, gt, manual
    (?:1st|2nd)[ _-]?(?:ho|manual), 标注, 標註, contours?, outlines?, overlays?, edges?, boundar(?:y|ies)
    lesions?, vessels?, skeletons?, landmarks?, rois?, boxes, b(?:ounding)?[ _-]?box(?:es)?, heat[ _-]?maps?
    pred(?:iction)?s?, probabilit(?:y|ies), (?:grad[ _-]?)?cams?, saliency, thumb(?:nail)?s?
""") + r"(?:[ _-]?(?:\d+|t[rs]|train(?:ing)?|test|val|left|right|o[ds]|final|images?|png))??"
# the images themselves
SHOWN = any_of("""
    images?, imgs?, imaging, pictures?, photos?, scans?, frames?, slices?, volumes?, inputs?, raw
    orig(?:inal)?s?, bild(?:er)?, im[aá]gen(?:es)?, immagin[ei], изображени[ея], 图[像片], 影像
""")
# folders of train, val and test
SPLIT_WORDS = re.compile("|".join(f"({any_of(words)})" for words in (
    "train(?:ing)?, trn, entrenamiento, treino, entra[iî]nement, addestramento, 训练集?",
    "val(?:id(?:at(?:e|ion))?)?, dev, tun(?:e|ing), validier(?:ung)?, valida(?:ci[oó]n|[cç][aã]o|zione), "
    "验证集?",
    "teste?, testing, tst, hold[ _-]?out, prueba, 测试集?")))
