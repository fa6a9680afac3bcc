package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"weft/setup"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show and check the configuration"}
	show := &cobra.Command{
		Use: "print", Short: "Show every option with its meaning and its value in force", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// What is wrong does not keep us from showing it.
			c, err := loadConfig(cmd)
			if pErr := c.Print(cmd.OutOrStdout()); pErr != nil {
				return pErr
			}
			if err != nil {
				_, err = fmt.Fprintf(cmd.ErrOrStderr(), "\nThis configuration is not complete:\n%v\n", err)
			}
			return err
		},
	}
	check := &cobra.Command{
		Use: "check", Short: "Say what is wrong with the configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd)
			if err == nil {
				err = setup.CheckFiles(&c)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "The configuration is valid.")
			return err
		},
	}
	reference := &cobra.Command{
		Use: "reference", Short: "Write docs/config.md", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return setup.Reference(cmd.OutOrStdout()) },
	}
	addConfigFlags(show)
	addConfigFlags(check)
	cmd.AddCommand(show, check, reference)
	return cmd
}
