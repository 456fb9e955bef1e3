"""The report: tables, figures and pages made from the files of a run."""
