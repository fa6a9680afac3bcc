package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"weft/internal/serverkey"
)

func keysCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Manage the server's signing key"}
	var out string
	generate := &cobra.Command{
		Use: "generate", Short: "Make a new signing key", Args: cobra.NoArgs,
		Long: "Make a new signing key and write it to a file that does not exist yet.\n`weft serve` makes its own at the first start; this is for placing the key elsewhere.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := serverkey.Generate("")
			if err != nil {
				return err
			}
			if out == "-" {
				_, err := cmd.OutOrStdout().Write(key.Marshal())
				return err
			}
			if err := serverkey.Write(out, key); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s written to %s\n", key.ID, filepath.ToSlash(out))
			return err
		},
	}
	generate.Flags().StringVarP(&out, "out", "o", "signing.key", "file to write; - for standard output")
	cmd.AddCommand(generate)
	return cmd
}
