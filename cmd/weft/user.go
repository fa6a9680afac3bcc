package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"weft/setup"
)

func userCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "Manage accounts, directly in the database"}
	cmd.AddCommand(userCreateCommand(), userPasswordCommand())
	return cmd
}

func userCreateCommand() *cobra.Command {
	var admin bool
	var password string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make an account", Args: cobra.ExactArgs(1),
		Long: "Make an account. NAME is a localpart or a whole user ID. The password is read from the\nfirst line of standard input unless --password gives it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			if password, err = askPassword(cmd, password); err != nil {
				return err
			}
			user, err := setup.CreateUser(cmd.Context(), &c, args[0], password, admin)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "created", user)
			return err
		},
	}
	addConfigFlags(cmd)
	cmd.Flags().BoolVar(&admin, "admin", false, "make it a server administrator")
	cmd.Flags().StringVar(&password, "password", "", "the password (others on this machine can see it in the process list)")
	return cmd
}

func userPasswordCommand() *cobra.Command {
	var keep bool
	var password string
	cmd := &cobra.Command{
		Use: "password NAME", Short: "Set an account's password and log its devices out", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			if password, err = askPassword(cmd, password); err != nil {
				return err
			}
			user, err := setup.SetPassword(cmd.Context(), &c, args[0], password, !keep)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "changed the password of", user)
			return err
		},
	}
	addConfigFlags(cmd)
	cmd.Flags().BoolVar(&keep, "keep-devices", false, "do not log devices out")
	cmd.Flags().StringVar(&password, "password", "", "the password (others on this machine can see it in the process list)")
	return cmd
}

// askPassword takes the password from the flag or from standard input.
func askPassword(cmd *cobra.Command, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if in, ok := cmd.InOrStdin().(*os.File); ok {
		if info, err := in.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			if _, err := fmt.Fprint(cmd.ErrOrStderr(), "Password (it will be visible): "); err != nil {
				return "", err
			}
		}
	}
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read password: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", errors.New("no password was given")
	}
	return line, nil
}
