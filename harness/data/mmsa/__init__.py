"""MMSA feature files: unpickled without running code, checked, aligned and cleaned."""
