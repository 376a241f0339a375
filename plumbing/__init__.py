"""What training needs and no idea does: the way from a command and a table to batches, weights and a run
folder.

Only what stands here for the ideas knows how a paper's mechanism works. A new idea touches one line, MODELS
in models.py. The first line of each file says which concept it is; in reading order:

    a program         flags command models prepare start look device kernels parallel
    the run folder    run_folder saved_run resume inside lock
    what --data is    load_cohort cohort public_tables class_folders medmnist folders image_paths
    a table           tables words cells rows target_kinds targets match columns spreadsheet
    patients          patients splits
    images            formats headers reading pictures arrays dicom nifti grey fit cache features
    for the ideas     sizes checks variants fusions stages
    pretrained        weights checkpoints weight_files names architecture families preprocessing resize
    simulated data    simulate simulate_skin simulate_photo simulate_chest simulate_film simulate_brain
                      simulate_bag drawing
"""
