"""What a run is worth: predictions, numbers with their intervals, pictures, and pages that show them.

eval.py is the program. The first line of each file says which concept it is; in reading order:

    predictions       predict predictions_file new_images other_table
    numbers           metrics scores probabilities subgroups localization verdict
    several runs      folds compare
    in words          result_tables printing run_text report card export
    pictures          figures choice picture_rows picture_file
    charts            plots curves run_charts chart canvas
"""
